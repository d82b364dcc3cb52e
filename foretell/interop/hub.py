"""Models of the Hugging Face hub: fetched once into its own cache, and found there without a network."""

import contextlib
import re
from pathlib import Path

from foretell.base.errors import ModelError
from foretell.base.files import translated_write_errors

NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(?<![.-])", re.ASCII)
FILES = [
    "config.json",
    "generation_config.json",
    "foretell.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
]
FILES += [
    "adapter_config.json",
    "adapter_model.safetensors",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
]
FILES += ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]
PICKLED = ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"]


def fetch(name: str, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a model: a local one of this name, else the hub's owner/name, downloaded or from its cache.

    Only what a model needs is fetched, and pickles only where there are no safetensors. revision: branch, tag or commit; token:
    for private and gated models (else the one that the hub's own tools saved). HF_HUB_OFFLINE and HF_HUB_CACHE are respected.
    Raises ModelError: no such name, not allowed, or neither network nor a cached copy.
    """
    if (folder := Path(name)).is_dir():
        return folder
    if not NAME.fullmatch(name):
        cure = "give a folder that holds config.json, or a hub model as owner/name, such as openai-community/gpt2"
        raise ModelError("this is neither a folder nor the name of a hub model", where=name, cure=cure)
    from huggingface_hub.constants import HF_HUB_CACHE

    with translated_write_errors(Path(HF_HUB_CACHE)):
        folder = _snapshot(name, FILES, revision, token)
        if not any(folder.glob("*.safetensors")):
            folder = _snapshot(name, FILES + PICKLED, revision, token)
        return folder


def _snapshot(name: str, files: list[str], revision: str | None, token: str | None) -> Path:
    """The folder of the cache that holds these files of a model, after downloading what is not there yet."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        return Path(hub.snapshot_download(name, revision=revision, token=token, allow_patterns=files))
    except errors.GatedRepoError as error:
        what, cure = "access to this model is given only on request", "ask for it on the model's page, then: hf auth login"
        raise ModelError(what, where=name, cure=cure) from error
    except errors.RepositoryNotFoundError as error:
        what, cure = "there is no such folder here and no such model on the hub", "check the name; if it is private: hf auth login"
        raise ModelError(what, where=name, cure=cure) from error
    except errors.RevisionNotFoundError as error:
        what = f"the model has no revision {revision}"
        raise ModelError(what, where=name, cure="give one of its branches, tags or commits") from error
    except Exception as error:  # the network: its errors have other classes in every version of the library
        if isinstance(error, OSError) and error.errno:
            raise  # the disk
        with contextlib.suppress(OSError):
            return Path(hub.snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=True))
        what = f"the hub cannot be reached and the cache holds no whole copy: {str(error).partition(chr(10))[0]}"
        cure = "fetch it once with a network and without HF_HUB_OFFLINE, or give a folder"
        raise ModelError(what, where=name, cure=cure) from error
