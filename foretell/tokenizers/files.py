"""The files of a tokenizer directory beside tokenizer.json: who plays which role, and the chat template."""

from pathlib import Path
from typing import Any

from foretell.base.files import read_text, write_text
from foretell.base.records import dump, read_json

CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")  # the second one decides
TEMPLATE = "chat_template.jinja"
ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


def read_config(directory: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json, with what older directories keep in other files. Raises DataError."""
    files = [directory / name for name in CONFIGS if (directory / name).is_file()]
    config = {key: value for file in files for key, value in read_json(file).items()}
    return config | ({"chat_template": read_text(directory / TEMPLATE)} if (directory / TEMPLATE).is_file() else {})


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Write it, with a chat template in both places that transformers and vLLM look at."""
    write_text(directory / CONFIGS[-1], dump(config, indent=2) + "\n")
    if isinstance(template := config.get("chat_template"), str):
        write_text(directory / TEMPLATE, template)


def named(config: dict[str, Any], role: str) -> str | None:
    """The token that has a role; transformers writes it as a string, or as an object with its content."""
    token = config.get(f"{role}_token")
    content = token.get("content") if isinstance(token, dict) else token
    return content if content and isinstance(content, str) else None


def template_of(config: dict[str, Any]) -> str | None:
    """The Jinja template that renders a conversation; of several, the one called default."""
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {item["name"]: item["template"] for item in found}.get("default")
    return found if isinstance(found, str) else None
