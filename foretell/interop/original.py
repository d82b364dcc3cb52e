"""The first releases in their own files: OpenAI's GPT-1 (.npy) and GPT-2, Google's BERT (TensorFlow checkpoints).

What they call their sizes and tensors stands in original.toml.
"""

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.base.errors import ModelError
from foretell.base.files import read_text
from foretell.base.records import read_json
from foretell.interop.foreign import Foreign
from foretell.interop.tensor_bundle import CURE, TensorBundle, damage
from foretell.tokenizers.published import gpt1_from_openai, gpt2_from_openai, wordpiece_from_vocab
from foretell.tokenizers.tokenizer import Tokenizer

Shape: TypeAlias = tuple[int, ...]
Notes: TypeAlias = tuple[str, ...]

NPY = re.compile(rb"\x93NUMPY\x01\x00..{'descr': '<f4', 'fortran_order': (?:True|False), 'shape': \((\d+),\), } *\n", re.DOTALL)
GELU = "hidden_act 'gelu' is exact in transformers; Google's code computes its tanh form, 'gelu_new', at most 0.0005 away"


def is_gpt1(folder: Path) -> bool:
    """Whether OpenAI's GPT-1 lies here."""
    return (folder / "params_shapes.json").is_file()


def is_gpt2_tensorflow(folder: Path) -> bool:
    """Whether a GPT-2 lies here as OpenAI released it."""
    return (folder / "hparams.json").is_file() and any(folder.glob("*.index"))


def is_bert_tensorflow(folder: Path) -> bool:
    """Whether a BERT lies here as Google released it."""
    return (folder / "bert_config.json").is_file() and any(folder.glob("*.index"))


def read_gpt1(folder: Path, faithful: bool = True) -> Foreign:
    """Ten files that hold one row of numbers, to be cut as params_shapes.json says. Raises ModelError.

    faithful: the tokenizer prepares text as OpenAI did (ftfy, spaCy), not as transformers does.
    """
    with damage(path := folder / "params_shapes.json"):
        match given := read_json(path):
            case [[int(n_positions), int(n_embd)], [int(vocab_size), _], *rest] if min(n_positions, vocab_size, n_embd) > 0:
                sizes = {"vocab_size": vocab_size, "n_positions": n_positions, "n_embd": n_embd, "n_head": n_embd // 64}
                sizes["n_layer"] = len(rest) // 12
            case _:
                raise ValueError("it does not begin with the shapes of two embeddings")
        names, _, shapes = zip(*_tensors("gpt1", sizes, sizes["n_layer"]), strict=True)
        given = [shape[1:] if isinstance(shape, list) and len(shape) == 3 and shape[0] == 1 else shape for shape in given]
        if n_embd % 64 or given != [[*shape] for shape in shapes]:
            raise ValueError("these are not the shapes of a GPT-1")
    rows = [_row(folder / f"params_{number}.npy") for number in range(10)]
    ends = list(accumulate(map(math.prod, shapes)))
    if (found := sum(map(len, rows))) != ends[-1]:
        what = f"the ten files hold {found:,} numbers, params_shapes.json asks for {ends[-1]:,}"
        raise ModelError(what, where=str(folder), cure=CURE)
    tensors = {name: _piece(rows, end, shape) for name, end, shape in zip(names, ends, shapes, strict=True)}
    tokenizer, notes = _tokenizer(folder, "gpt1", faithful=faithful)
    notes += (f"the release does not say how many heads there are: {n_embd // 64}, each 64 wide as in the paper",)
    return Foreign(_releases()["gpt1"]["config"] | sizes, tensors, tokenizer, str(folder), notes)


def read_gpt2_tensorflow(folder: Path) -> Foreign:
    """hparams.json and a TensorFlow checkpoint. Raises ModelError."""
    config, sizes = _config(folder / "hparams.json", "gpt2")
    tensors, left_out = _from_checkpoint(folder, _tensors("gpt2", sizes, sizes["n_layer"]))
    tokenizer, notes = _tokenizer(folder, "gpt2")
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), sizes["vocab_size"] - 1)
    return Foreign(config | ends, tensors, tokenizer, str(folder), left_out + notes)


def read_bert_tensorflow(folder: Path) -> Foreign:
    """bert_config.json and a TensorFlow checkpoint with both heads of pre-training. Raises ModelError."""
    config, sizes = _config(folder / "bert_config.json", "bert")
    tensors, left_out = _from_checkpoint(folder, _tensors("bert", sizes, sizes["num_hidden_layers"]))
    vocabulary, notes = folder / "vocab.txt", (GELU,) * (config["hidden_act"] == "gelu")
    lowercase = vocabulary.is_file() and not re.search("^(##)?[A-Z]", read_text(vocabulary), re.MULTILINE)
    tokenizer, missing = _tokenizer(folder, "bert", lowercase=lowercase)
    if tokenizer:
        found = "no pieces of capital letters: text is" if lowercase else "pieces of capital letters: text is not"
        notes += (f"vocab.txt has {found} lower-cased",)
    return Foreign(config, tensors, tokenizer, str(folder), left_out + missing + notes)


@cache
def _releases() -> dict[str, Any]:
    return tomllib.loads(read_text(Path(__file__).with_suffix(".toml")))


def _tensors(release: str, sizes: dict[str, int], n_layer: int) -> Iterator[tuple[str, str, Shape]]:
    """For each tensor transformers' name, the release's, and transformers' shape."""
    table = _releases()[release]["tensors"].items()
    for layered, part in groupby(table, lambda row: "#" in row[0]):
        rows = list(part)
        for layer in range(n_layer if layered else 1):
            for name, (source, *axes) in rows:
                shape = tuple(math.prod(sizes.get(factor) or int(factor) for factor in axis.split("*")) for axis in axes)
                yield name.replace("#", str(layer)), source.replace("#", str(layer)), shape


def _config(path: Path, release: str) -> tuple[dict[str, Any], dict[str, int]]:
    """A release's config in transformers' words, and the sizes in it. Raises ModelError."""
    raw, known = read_json(path), _releases()[release]
    given = raw if isinstance(raw, dict) else {}
    sizes: dict[str, int] = {word: given.get(theirs, 0) for word, theirs in known["words"].items()}
    if wrong := [known["words"][word] for word, size in sizes.items() if type(size) is not int or size < 1]:
        raise ModelError(f"{wrong[0]} is not given as a whole number", where=str(path), cure=CURE)
    return {word: given.get(word, silent) for word, silent in known["defaults"].items()} | known["config"] | sizes, sizes


def _from_checkpoint(folder: Path, wanted: Iterable[tuple[str, str, Shape]]) -> tuple[dict[str, Tensor], Notes]:
    """The wanted tensors of a folder's checkpoint, and a note on those left out. Raises ModelError."""
    prefixes = sorted(path.with_suffix("") for path in folder.glob("*.index"))
    if len(prefixes) > 1:  # several steps of a training: `checkpoint` names the last
        last = re.match('model_checkpoint_path: "(?:.*/)?(.+)"', read_text(folder / "checkpoint"))
        prefixes = [prefix for prefix in prefixes if last and prefix.name == last[1]]
    if len(prefixes) != 1:
        raise ModelError("there is no checkpoint here", where=str(folder), cure="give the folder that holds its .index file")
    bundle, tensors = TensorBundle(prefixes[0]), dict[str, Tensor]()
    left = dict(bundle.entries)
    for name, source, shape in wanted:
        stored = shape[::-1] if source.endswith("/kernel") else shape
        if (entry := left.pop(source, None)) is None or entry.shape not in (stored, (1, *stored)):
            what = f"has shape {list(entry.shape)}, the config says {list(stored)}" if entry else "is missing"
            raise ModelError(f"{source} {what}", where=str(prefixes[0]), cure="check that the config belongs to this checkpoint")
        tensor = bundle.read(source).reshape(stored)
        tensors[name] = tensor.t() if source.endswith("/kernel") else tensor
    kinds = ", ".join(sorted({name.rpartition("/")[2] for name in left})[:5])
    return tensors, (f"{len(left)} tensors are left out, which are no weights of this model: {kinds}",) * bool(left)


def _row(path: Path) -> NDArray[np.float32]:
    """One file of numbers: a memory map that is never written back. Its header is matched, not evaluated."""
    with damage(path), path.open("rb") as stream:
        header = NPY.match(stream.read(512))
        if not header or header.end() + 4 * int(header[1]) != path.stat().st_size:
            raise ValueError("it is not one whole row of fp32 numbers")
        return np.memmap(path, np.float32, "c", header.end(), (int(header[1]),))


def _piece(rows: list[NDArray[np.float32]], end: int, shape: Shape) -> Tensor:
    """The numbers before `end` of all rows in sequence, as many as the shape has: a view where they lie in one file."""
    start, parts = end - math.prod(shape), list[NDArray[np.float32]]()
    for row in rows:
        parts.append(row[max(start, 0) : max(end, 0)])
        start, end = start - len(row), end - len(row)
    parts = [part for part in parts if len(part)]
    return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(shape)


def _tokenizer(folder: Path, release: str, **options: bool) -> tuple[Tokenizer | None, Notes]:
    """The release's tokenizer, or a note on what is missing for it."""
    files = _releases()[release]["tokenizer"]
    if missing := [name for name in files if not (folder / name).is_file()]:
        return None, (f"there is no tokenizer: {missing[0]} is missing",)
    opened: dict[str, Callable[..., Tokenizer]] = {"gpt1": gpt1_from_openai, "gpt2": gpt2_from_openai, "bert": wordpiece_from_vocab}
    return opened[release](folder / files[0] if release == "bert" else folder, **options), ()
