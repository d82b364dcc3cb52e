"""The jobs of opening somebody else's model and of giving ours away: read, write, and prove that it says the same."""

import gc
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
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
from foretell.interop.huggingface import (
    find_tokenizer,
    load_any,
    model_of,
    read_foreign,
    to_foreign,
    write_foreign,
    write_provenance,
)
from foretell.interop.original import (
    is_bert_tensorflow,
    is_gpt1,
    is_gpt2_tensorflow,
    read_bert_tensorflow,
    read_gpt1,
    read_gpt2_tensorflow,
)
from foretell.interop.tensors import read_tensors
from foretell.interop.verify import Outputs, outputs, probe_tokens, require_same, transformers_outputs
from foretell.models.config import described
from foretell.models.counts import parameter_count
from foretell.models.heads import TaskModel
from foretell.models.network import Network
from foretell.tokenizers.tokenizer import Tokenizer

CARRIED = ("bos_token_id", "eos_token_id", "pad_token_id", "problem_type", "id2label", "label2id")  # our words do not hold these
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FOLDER = "Hugging Face directory"
WRITTEN = ("config.json", "tokenizer_config.json", "foretell.json", "digests.json")  # anew, not copied
COPIED = re.compile(r"(?!adapter_|training_).*\.(json|txt|jinja|model|md)|model(-\d+-of-\d+)?\.safetensors")


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
            partial, {"imported": {"from": kind, "source": path.name if Path(source).exists() else source, "revision": revision}}
        )
        seal(partial)
    terminal.say(f"read back, it says the same: {told}\nmodel: {out}")
    return {"model": str(out), "format": kind, **facts, "difference": told}


def _bring(path: Path, kind: str, read: Callable[[], Foreign], partial: Path, terminal: Terminal) -> tuple[dict[str, Any], str]:
    """Write the model into a new folder; its facts, and how far what is read back is from it."""
    foreign = read()
    model = model_of(foreign.config, foreign.tensors, foreign.where, as_stored=True)
    config = model.body.config if isinstance(model, TaskModel) else model.config
    for note in foreign.notes:
        terminal.warn(note)
    _require_matching(foreign.tokenizer, config.vocab_size, foreign.where)
    terminal.say(f"{described(config)}; {count(parameter_count(config))} parameters")
    tokens_BT = probe_tokens(model, foreign.tokenizer)
    before = outputs(model, tokens_BT)
    if kind == FOLDER and any(path.glob("model*.safetensors")):
        _copy(path, partial, foreign, terminal)
    else:
        write_foreign(partial, foreign)
    facts = {"architecture": described(config), "parameters": parameter_count(config)}
    del model, foreign
    gc.collect()  # one model at a time in memory: what was mapped is given back before the copy is read
    return facts, require_same(before, outputs(load_any(partial, as_stored=True), tokens_BT), exact=True, where=str(path))


@dataclass(frozen=True)
class _Export:
    """A model on its way out, with what it says to the probe text."""

    source: Path
    model: Network | TaskModel
    tokenizer: Tokenizer | None
    tokens_BT: Tensor
    said: Outputs
    dtype: str | None
    shard_bytes: int


def export_model(
    model: Path, to: str, out: Path, terminal: Terminal, *, dtype: str | None = None, shard_bytes: int = 5 * 10**9
) -> dict[str, Any]:
    """Write a model directory in another format. Raises ForetellError; nothing is left then."""
    require_new(out)
    if not shard_bytes > 0:
        raise SettingError(f"files of {shard_bytes} bytes are not possible", where="--shard-gb", cure="give a size above 0")
    set_threads(None)
    loaded, tokenizer = load_any(model), find_tokenizer(model)
    tokens_BT = probe_tokens(loaded, tokenizer)
    work = _Export(model, loaded, tokenizer, tokens_BT, outputs(loaded, tokens_BT), dtype, shard_bytes)
    with atomic_path(out) as partial:
        told, notes = {"hf": _to_hf, "gguf": _to_gguf, "onnx": _to_onnx}[to](work, partial)
        written = sum(item.stat().st_size for item in (partial.rglob("*") if partial.is_dir() else [partial]))
    for note in notes:
        terminal.warn(note)
    terminal.say(f"{told}\nwritten: {out} ({size(written)})")
    return {"out": str(out), "format": to, "bytes": written, "difference": told}


def _to_hf(work: _Export, folder: Path) -> tuple[str, list[str]]:
    raw, where = read_json(work.source / "config.json"), str(work.source)
    stored = {tensor.dtype for tensor in read_tensors(work.source).values() if tensor.is_floating_point()}
    kept = stored.pop() if len(stored) == 1 else torch.float32
    kind = _dtype(work.dtype) if work.dtype else kept
    foreign = to_foreign(work.model, work.tokenizer)
    if foreign.config["model_type"] == NATIVE:
        what = "transformers has no class that computes this model"
        cure = "use it with Foretell; models with layouts of GPT-1, GPT-2, GPT-Neo, Llama, Qwen or BERT can be exported"
        raise ModelError(what, where=where, cure=cure)
    name = str(kind).removeprefix("torch.")
    config = foreign.config | {"dtype": name, "torch_dtype": name} | {key: raw[key] for key in CARRIED if key in raw}
    folder.mkdir()
    tensors = {key: tensor.to(kind) for key, tensor in foreign.tensors.items()}
    write_foreign(folder, Foreign(config, tensors, work.tokenizer, foreign.where), work.shard_bytes)
    if (work.source / "generation_config.json").exists():
        shutil.copyfile(work.source / "generation_config.json", folder / "generation_config.json")
    exact = kind in (torch.float32, kept)
    back = require_same(work.said, outputs(load_any(folder), work.tokens_BT), exact=exact, where=where)
    several = isinstance(work.model, TaskModel) and work.model.head_config.kind == "choice"
    theirs = transformers_outputs(folder, config["architectures"][0], several, work.tokens_BT)
    if theirs is None:
        return f"read back: {back} (transformers is not installed, and was not asked)", []
    return f"read back: {back}\nin transformers: {require_same(work.said, theirs, exact=exact, where=where)}", []


def _to_gguf(work: _Export, path: Path) -> tuple[str, list[str]]:
    dtype = work.dtype or "f16"
    written = write_gguf(to_foreign(work.model, work.tokenizer, where=str(work.source)), path, dtype)
    back = read_gguf(path)
    after = outputs(model_of(back.config, back.tensors, str(path)), work.tokens_BT)
    told = require_same(work.said, after, exact=dtype == "f32", where="the GGUF file")
    return f"read back: {told}", list(written.notes)


def _to_onnx(work: _Export, folder: Path) -> tuple[str, list[str]]:
    from foretell.interop.onnx import verify_onnx, write_onnx

    if work.dtype not in (None, "f32"):
        raise SettingError(f"ONNX is written in f32 only, not {work.dtype}", where="--dtype", cure="leave --dtype out")
    folder.mkdir()
    notes = write_onnx(work.model, folder, work.tokenizer)
    difference = verify_onnx(work.model, folder, work.tokens_BT.repeat(2, 1))
    return f"in onnxruntime: largest difference {difference:.2g}", notes


def _recognised(path: Path, text: str | None, revision: str | None, base: str | None) -> tuple[str, Callable[[], Foreign]]:
    """What lies here, and how it is read. Raises ModelError."""
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        for named, kind, read in (
            (is_gpt1(path), "OpenAI's GPT-1 release", lambda: read_gpt1(path, faithful=_faithful(text))),
            (is_gpt2_tensorflow(path), "OpenAI's GPT-2 release (TensorFlow)", lambda: read_gpt2_tensorflow(path)),
            (is_bert_tensorflow(path), "Google's BERT release (TensorFlow)", lambda: read_bert_tensorflow(path)),
            ((path / "adapter_config.json").is_file(), "PEFT adapter", lambda: _adapted(path, base, revision)),
            ((path / "config.json").is_file(), FOLDER, lambda: read_foreign(path)),
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
    from foretell.interop.peft import adapter_base, adapter_head, load_adapter
    from foretell.models.adapters import merge

    name = base or adapter_base(path)
    folder = fetch(name, revision)
    source, model = read_foreign(folder), load_any(folder)
    if isinstance(model, Network) and (head := adapter_head(path, model)):
        model = TaskModel(model, head).eval()
    load_adapter(path, model)
    tokens_BT = probe_tokens(model, source.tokenizer)
    adapted = outputs(model, tokens_BT)
    merge(model)
    told = require_same(adapted, outputs(model, tokens_BT), exact=True, where=str(path))
    merged = to_foreign(model, source.tokenizer)
    return Foreign(merged.config, merged.tensors, source.tokenizer, str(path), (*source.notes, f"merged into {name}: {told}"))


def _copy(source: Path, target: Path, foreign: Foreign, terminal: Terminal) -> None:
    """A Hugging Face directory as it is, file by file, without code and pickles; its config without auto_map."""
    if damaged := damaged_files(source):
        cure = "restore the folder from a copy"
        raise ModelError(f"the model is not what was saved: {damaged[0]}", where=str(source), cure=cure)
    for item in sorted(source.iterdir()):
        if item.is_file() and COPIED.fullmatch(item.name) and item.name not in WRITTEN:
            shutil.copyfile(item, target / item.name)
    for item in source.glob("[0-9]_*/*.json"):  # how sentence-transformers pools
        (target / item.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(item, target / item.parent.name / item.name)
    for name in ("config.json", "tokenizer_config.json"):
        if (source / name).exists():
            content = read_json(source / name)
            if name != "config.json" and "auto_map" in content:
                terminal.warn(f"{name} asks for program code of its own (auto_map): it is left out and never run")
            kept = {key: value for key, value in content.items() if key != "auto_map"}
            (target / name).write_text(dump(kept, indent=2), encoding="utf-8")
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
