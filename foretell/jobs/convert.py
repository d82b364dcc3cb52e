"""The jobs of opening somebody else's model and of giving ours away: read, write, and prove that it says the same."""

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretell.base.console import Terminal
from foretell.base.errors import ModelError, SettingError
from foretell.base.files import atomic_path, damaged_files, require_new, seal
from foretell.base.records import dump, read_json
from foretell.base.units import count, size
from foretell.compute.device import set_threads
from foretell.interop.configs import NATIVE
from foretell.interop.foreign import Foreign
from foretell.interop.gguf import read_gguf, write_gguf
from foretell.interop.hub import fetch
from foretell.interop.huggingface import load_any, model_of, read_foreign, to_foreign, write_foreign, write_provenance
from foretell.interop.original import (
    is_bert_tensorflow,
    is_gpt1,
    is_gpt2_tensorflow,
    read_bert_tensorflow,
    read_gpt1,
    read_gpt2_tensorflow,
)
from foretell.interop.verify import outputs, probe_tokens, require_same, transformers_outputs
from foretell.models.config import described
from foretell.models.counts import parameter_count
from foretell.models.heads import TaskModel
from foretell.models.network import Network
from foretell.tokenizers.tokenizer import Tokenizer

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NEVER_COPIED = ("config.json", "foretell.json", "digests.json")  # written anew
COPIED = (".json", ".txt", ".jinja", ".model", ".md", ".safetensors")


def import_model(
    source: str, out: Path, terminal: Terminal, *, revision: str | None = None, base: str | None = None, text: str | None = None
) -> dict[str, Any]:
    """Open a model of any known format and write it as a model directory. Raises ForetellError; nothing is left then.

    base: for a PEFT adapter, the model it belongs to (else the one that it names). text: GPT-1, how its tokenizer prepares text,
    "faithful" or "transformers"; absent: faithful where ftfy and spaCy are installed.
    """
    require_new(out)
    set_threads(None)
    path = Path(source) if Path(source).exists() else fetch(source, revision)
    kind, read = _recognised(path, text, revision, base)
    terminal.say(f"{kind}: {path}")
    with atomic_path(out) as partial:
        partial.mkdir()
        facts, told = _bring(path, kind, read, partial, terminal)
        write_provenance(
            partial, {"imported": {"from": kind, "source": source if path.is_dir() else path.name, "revision": revision}}
        )
        seal(partial)
    terminal.say(f"read back, it says the same: {told}\nmodel: {out}")
    return {"model": str(out), "format": kind, **facts, "difference": told}


def _bring(path: Path, kind: str, read: Callable[[], Foreign], partial: Path, terminal: Terminal) -> tuple[dict[str, Any], str]:
    """Write the model into a new folder; its facts, and how far what is read back is from it."""
    foreign = read()
    model = model_of(foreign.config, foreign.tensors, foreign.where)
    config = model.body.config if isinstance(model, TaskModel) else model.config
    for note in foreign.notes:
        terminal.warn(note)
    _require_matching(foreign.tokenizer, config.vocab_size, foreign.where)
    terminal.say(f"{described(config)}; {count(parameter_count(config))} parameters")
    tokens_BT = probe_tokens(model, foreign.tokenizer)
    before = outputs(model, tokens_BT)
    if kind == "Hugging Face directory" and not any(path.glob("pytorch_model*.bin")):
        _copy(path, partial, foreign)
    else:
        write_foreign(partial, foreign)
    facts = {"architecture": described(config), "parameters": parameter_count(config)}
    del model, foreign
    gc.collect()  # one model at a time in memory: what was mapped is given back before the copy is read
    return facts, require_same(before, outputs(load_any(partial), tokens_BT), exact=True, where=str(path))


def export_model(
    model: Path, to: str, out: Path, terminal: Terminal, *, dtype: str | None = None, shard_bytes: int = 5 * 10**9
) -> dict[str, Any]:
    """Write a model directory in another format. Raises ForetellError; nothing is left then."""
    require_new(out)
    set_threads(None)
    loaded = load_any(model)
    tokenizer = Tokenizer.load(model) if (model / "tokenizer.json").exists() else None
    tokens_BT = probe_tokens(loaded, tokenizer)
    before = outputs(loaded, tokens_BT)
    with atomic_path(out) as partial:
        if to == "hf":
            told = _export_hf(model, loaded, tokenizer, partial, (dtype, shard_bytes), (tokens_BT, before))
        elif to == "gguf":
            told = _export_gguf(loaded, tokenizer, partial, dtype or "f16", (tokens_BT, before), terminal)
        else:
            told = _export_onnx(loaded, tokenizer, partial, dtype, tokens_BT, terminal)
        written = sum(item.stat().st_size for item in (partial.rglob("*") if partial.is_dir() else [partial]))
    terminal.say(f"{told}\nwritten: {out} ({size(written)})")
    return {"out": str(out), "format": to, "bytes": written, "difference": told}


def _export_hf(
    source: Path,
    model: Network | TaskModel,
    tokenizer: Tokenizer | None,
    folder: Path,
    form: tuple[str | None, int],
    probe: tuple[Tensor, Tensor],
) -> str:
    (dtype, shard_bytes), (tokens_BT, before) = form, probe
    raw = read_json(source / "config.json")
    stored = str(raw.get("dtype") or raw.get("torch_dtype") or "float32")
    kind = _dtype(dtype) if dtype else getattr(torch, stored, torch.float32)
    foreign = to_foreign(model, tokenizer)
    if foreign.config["model_type"] == NATIVE:
        what = "transformers has no class that computes this model"
        cure = "use it with Foretell; models with layouts of GPT-1, GPT-2, GPT-Neo, Llama, Qwen or BERT can be exported"
        raise ModelError(what, where=str(source), cure=cure)
    name = str(kind).removeprefix("torch.")
    words = {"dtype": name, "torch_dtype": name}
    folder.mkdir()
    tensors = ((key, tensor.to(kind)) for key, tensor in foreign.tensors.items())
    write_foreign(folder, Foreign(foreign.config | words, dict(tensors), tokenizer, foreign.where), shard_bytes)
    exact = kind == torch.float32 or name == stored
    told = f"read back: {require_same(before, outputs(load_any(folder), tokens_BT), exact=exact, where=str(source))}"
    theirs = transformers_outputs(folder, foreign.config["architectures"][0], model, tokens_BT)
    if theirs is None:
        return f"{told} (transformers is not installed, and was not asked)"
    return f"{told}\nin transformers: {require_same(before, theirs, exact=exact, where=str(source))}"


def _export_gguf(
    model: Network | TaskModel,
    tokenizer: Tokenizer | None,
    path: Path,
    dtype: str,
    probe: tuple[Tensor, Tensor],
    terminal: Terminal,
) -> str:
    tokens_BT, before = probe
    written = write_gguf(to_foreign(model, tokenizer, where=path.name.split("-", 2)[-1]), path, dtype)
    for note in written.notes:
        terminal.warn(note)
    back = read_gguf(path)
    after = outputs(model_of(back.config, back.tensors, str(path)), tokens_BT)
    return f"read back: {require_same(before, after, exact=dtype == 'f32', where='the GGUF file')}"


def _export_onnx(
    model: Network | TaskModel, tokenizer: Tokenizer | None, folder: Path, dtype: str | None, tokens_BT: Tensor, terminal: Terminal
) -> str:
    from foretell.interop.onnx import verify_onnx, write_onnx

    if dtype not in (None, "f32"):
        raise SettingError(f"ONNX is written in f32 only, not {dtype}", where="--dtype", cure="leave --dtype out")
    folder.mkdir()
    for note in write_onnx(model, folder, tokenizer):
        terminal.warn(note)
    return f"in onnxruntime: largest difference {verify_onnx(model, folder, tokens_BT):.2g}"


def _recognised(path: Path, text: str | None, revision: str | None, base: str | None) -> tuple[str, Callable[[], Foreign]]:
    """What lies here, and how it is read. Raises ModelError."""
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        for named, kind, read in (
            (is_gpt1(path), "OpenAI's GPT-1 release", lambda: read_gpt1(path, faithful=_faithful(text))),
            (is_gpt2_tensorflow(path), "OpenAI's GPT-2 release (TensorFlow)", lambda: read_gpt2_tensorflow(path)),
            (is_bert_tensorflow(path), "Google's BERT release (TensorFlow)", lambda: read_bert_tensorflow(path)),
            ((path / "adapter_config.json").is_file(), "PEFT adapter", lambda: _adapted(path, base, revision)),
            ((path / "config.json").is_file(), "Hugging Face directory", lambda: read_foreign(path)),
            (len(found) == 1, "GGUF file", lambda: read_gguf(found[0])),
        ):
            if named:
                return kind, read
    else:
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return "GGUF file", lambda: read_gguf(path)
    what = "this is no model of a format that is known here"
    cure = "give a Hugging Face folder or hub name, a .gguf file, a PEFT adapter, or a folder of OpenAI's or Google's release"
    raise ModelError(what, where=str(path), cure=cure)


def _faithful(text: str | None) -> bool:
    from importlib.util import find_spec

    return text == "faithful" or (text is None and all(find_spec(name) for name in ("ftfy", "spacy")))


def _adapted(path: Path, base: str | None, revision: str | None) -> Foreign:
    """A base model with an adapter merged into it."""
    from foretell.interop.peft import adapter_base, load_adapter
    from foretell.models.adapters import merge

    name = base or adapter_base(path)
    folder = Path(name) if Path(name).is_dir() else fetch(name, revision)
    source, model = read_foreign(folder), load_any(folder)
    load_adapter(path, model)
    tokens_BT = probe_tokens(model, source.tokenizer)
    adapted = outputs(model, tokens_BT)
    merge(model)
    told = require_same(adapted, outputs(model, tokens_BT), exact=True, where=str(path))
    merged = to_foreign(model, source.tokenizer)
    return Foreign(merged.config, merged.tensors, source.tokenizer, str(path), (*source.notes, f"merged into {name}: {told}"))


def _copy(source: Path, target: Path, foreign: Foreign) -> None:
    """A Hugging Face directory as it is, file by file, without code and pickles; its config without auto_map."""
    if damaged := damaged_files(source):
        cure = "restore the folder from a copy"
        raise ModelError(f"the model is not what was saved: {damaged[0]}", where=str(source), cure=cure)
    for item in sorted(source.iterdir()):
        if item.is_file() and item.suffix in COPIED and item.name not in NEVER_COPIED:
            shutil.copyfile(item, target / item.name)
    config = {key: value for key, value in foreign.config.items() if key != "auto_map"}
    (target / "config.json").write_text(dump(config, indent=2), encoding="utf-8")
    if foreign.tokenizer is not None and not (target / "tokenizer.json").exists():
        foreign.tokenizer.save(target)


def _require_matching(tokenizer: Tokenizer | None, rows: int, where: str) -> None:
    if tokenizer is not None and tokenizer.vocab_size > rows:
        what = f"the tokenizer has {tokenizer.vocab_size} tokens, the model's embedding {rows} rows"
        raise ModelError(what, where=where, cure="put the tokenizer there that the model was trained with")


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        cure = f"one of {', '.join(DTYPES)}"
        raise SettingError(f"a Hugging Face directory is not written in {name}", where="--dtype", cure=cure)
    return DTYPES[name]
