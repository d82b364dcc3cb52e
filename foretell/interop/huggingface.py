"""A model is a Hugging Face directory: written so that transformers opens it, read whether it is ours or theirs."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretell import __version__
from foretell.base.errors import ModelError
from foretell.base.files import damaged_files
from foretell.base.records import dump, read_json
from foretell.compute.device import default_device
from foretell.interop.configs import NATIVE, from_hugging_face, layout_of, to_hugging_face
from foretell.interop.foreign import Foreign
from foretell.interop.names import bare, from_theirs, rules, to_theirs
from foretell.interop.tensors import read_tensors, write_tensors
from foretell.models.build import assign, build_empty
from foretell.models.config import ModelConfig, TransformerConfig
from foretell.models.heads import TaskModel
from foretell.models.network import LanguageModel, Network
from foretell.tokenizers.published import bpe_from_files, wordpiece_from_vocab
from foretell.tokenizers.tokenizer import Tokenizer

LAYER = re.compile(r"^(?:h|layers|encoder\.layer|blocks)\.(\d+)\.")
TIED = [(f"{name}.weight", "lm_head.weight") for name in ("wte", "tokens_embed", "embed_tokens")]
TIED += [("embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")]
PARTS = {"pooler": "pooler.dense.weight", "masked": "cls.predictions.transform.dense.weight"}
PARTS |= {"next_sentence": "cls.seq_relationship.weight"}


def save_model(
    folder: Path, model: Network | TaskModel, tokenizer: Tokenizer | None, weights: dict[str, Tensor] | None = None
) -> None:
    """Write config, weights (fp32), tokenizer and generation config into an existing folder.

    weights: our state dict, when it is not what the model holds (the fp32 masters of a bf16 run).
    """
    write_foreign(folder, to_foreign(model, tokenizer, weights))


def to_foreign(
    model: Network | TaskModel, tokenizer: Tokenizer | None, weights: dict[str, Tensor] | None = None, where: str = "the model"
) -> Foreign:
    """A model of ours in Hugging Face's words, fp32; the tensors are views."""
    config, head = (model.body.config, model.head_config) if isinstance(model, TaskModel) else (model.config, None)
    raw = to_hugging_face(config, head)
    layout = None if raw["model_type"] == NATIVE else layout_of(raw, "")
    tensors = to_theirs(weights if weights is not None else model.state_dict(), rules(config, layout, head))
    return Foreign(raw, {name: tensor.detach().float() for name, tensor in tensors.items()}, tokenizer, where)


def write_foreign(folder: Path, foreign: Foreign, shard_bytes: int = 5 * 10**9) -> None:
    """Write a model that is said in Hugging Face's words into an existing folder, in the dtype of its tensors."""
    ids: dict[str, Any] = {}
    if (tokenizer := foreign.tokenizer) is not None:
        ids = {f"{role}_token_id": tokenizer.role(role) for role in ("bos", "eos", "pad")}
        ids = {name: token for name, token in ids.items() if token is not None}
        tokenizer.save(folder, context_length=_context_length(foreign.config))
    config = ids | {key: value for key, value in foreign.config.items() if key != "auto_map"}
    for name, content in (("config", config), ("generation_config", {"do_sample": False, **ids})):
        (folder / f"{name}.json").write_text(dump(content, indent=2), encoding="utf-8")
    write_tensors(folder, foreign.tensors, shard_bytes)


def write_provenance(folder: Path, facts: dict[str, Any]) -> None:
    """foretell.json: what Hugging Face's files have no word for."""
    (folder / "foretell.json").write_text(dump({"format": 1, "foretell": __version__, **facts}, indent=2), encoding="utf-8")


def load_config(folder: Path) -> ModelConfig:
    """Read config.json. Raises ModelError for an unknown architecture or an option that we do not have."""
    return from_hugging_face(_read_config(folder), str(folder / "config.json"))[0]


def load_model(folder: Path) -> Network:
    """Read a model directory without a task head, ours or theirs, in fp32. Digests are verified where the directory has them.

    fp32 files are mapped, not read: memory is taken as weights are touched.
    """
    model = load_any(folder)
    if isinstance(model, TaskModel):
        cure = "give a language model's directory; for this one: foretell predict"
        raise ModelError(f"this model has a head for {model.head_config.kind}, and none for language", where=str(folder), cure=cure)
    return model


def load_any(folder: Path, *, as_stored: bool = False) -> Network | TaskModel:
    """Read a model directory with or without a task head. Raises ModelError."""
    raw = _read_config(folder)
    if damaged := damaged_files(folder):
        what, cure = f"the model is not what was saved: {damaged[0]}", "restore the folder from a copy or its run"
        raise ModelError(what, where=str(folder), cure=cure)
    return model_of(raw, read_tensors(folder), str(folder), as_stored=as_stored)


def read_foreign(folder: Path) -> Foreign:
    """A directory in Hugging Face's words, its tensors mapped; the tokenizer from whichever files it has. Raises ModelError."""
    tokenizer, notes = find_tokenizer(folder), list[str]()
    if tokenizer is None:
        only = " that is read (tokenizer.model is not: save it with transformers first)"
        only = only if (folder / "tokenizer.model").exists() else ""
        notes.append(f"there is no tokenizer here{only}: the model can be exported, but it can neither read nor write text")
    return Foreign(_read_config(folder), read_tensors(folder), tokenizer, str(folder), tuple(notes))


def find_tokenizer(folder: Path) -> Tokenizer | None:
    """tokenizer.json, or what older models have in its place: vocab.txt, or vocab.json and merges.txt."""
    if (folder / "tokenizer.json").exists():
        return Tokenizer.load(folder)
    if (folder / "vocab.txt").exists():
        path = folder / "tokenizer_config.json"
        said = read_json(path) if path.exists() else {}
        options = {"strip_accents": said.get("strip_accents"), "chinese": said.get("tokenize_chinese_chars", True)}
        return wordpiece_from_vocab(folder / "vocab.txt", lowercase=bool(said.get("do_lower_case", True)), **options)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return bpe_from_files(folder / "vocab.json", folder / "merges.txt")
    return None


def model_of(raw: dict[str, Any], tensors: Mapping[str, Tensor], where: str, *, as_stored: bool = False) -> Network | TaskModel:
    """The model that a config.json and tensors under Hugging Face's names make. Raises ModelError.

    as_stored: in the dtype of the tensors (if they have one), not in fp32: half the memory of a bf16 model.
    """
    config, head = from_hugging_face(raw, where)
    names = {bare(name): name for name in tensors}
    layers = {int(number) for name in names for number in LAYER.findall(name)}
    if layers and config.n_layer > len(layers):  # before a network of a million layers is built for a file of two
        what = f"config.json says {config.n_layer} layers, the weights hold {len(layers)}: tensors are missing"
        raise ModelError(what, where=where, cure="get the files again, whole, and from one place")
    if config.tied and (apart := _apart(names, tensors)):
        warnings.warn(f"{where}: {apart} differ, though config.json says that they are tied; both are kept", stacklevel=2)
        config = config.replace(tied=False)
    if isinstance(config, TransformerConfig) and raw["model_type"] != NATIVE:
        if not config.causal:  # what a file holds is not always what its architecture says
            config = config.replace(parts=[part for part, name in PARTS.items() if name in names])
        elif head is not None and "lm_head.weight" not in names:
            config = config.replace(tied=True)
    layout = None if raw["model_type"] == NATIVE else layout_of(raw, where)
    model = build_empty(config, head)
    ours = from_theirs(tensors, rules(config, layout, head), where)
    if not as_stored or len({tensor.dtype for tensor in ours.values()}) > 1:
        ours = {name: tensor.float() for name, tensor in ours.items()}
    assign(model, ours)
    return model.eval()


def _apart(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str | None:
    """The names of embedding and head, where a file has both and they are not the same."""
    for pair in TIED:
        if all(name in names for name in pair):
            one, other = (tensors[names[name]] for name in pair)
            if not torch.equal(one, other):
                return " and ".join(names[name] for name in pair)
    return None


def open_model(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    """A directory's language model, on the best device, and its tokenizer. Raises ModelError for an encoder."""
    model = load_model(folder)
    if not isinstance(model, LanguageModel):
        cure = "give a decoder's directory (GPT, Llama, Qwen, an LSTM)"
        raise ModelError("this is an encoder: it reads text, and writes none", where=str(folder), cure=cure)
    return model.to(default_device()), Tokenizer.load(folder).with_ends(_end_ids(folder))


def _end_ids(folder: Path) -> set[int]:
    """The ids that end an answer: chat models name several, in generation_config.json or config.json."""
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name).get("eos_token_id") if (folder / name).exists() else None
        if found is not None:
            return {int(token) for token in (found if isinstance(found, list) else [found])}
    return set()


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError("there is no model directory here", where=str(folder), cure="give the folder that holds config.json")
    raw = read_json(folder / "config.json")
    if not isinstance(raw, dict):
        cure = "restore it from the model's source"
        raise ModelError("config.json is no JSON object", where=str(folder / "config.json"), cure=cure)
    return raw


def _context_length(raw: dict[str, Any]) -> int | None:
    own = raw.get("foretell") or {}
    return raw.get("n_positions") or raw.get("max_position_embeddings") or own.get("context_length")
