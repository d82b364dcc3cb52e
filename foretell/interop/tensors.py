"""The tensors of Hugging Face directories: read as memory maps, from whomever they are, and written in shards."""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foretell.base.errors import ModelError
from foretell.base.files import atomic_path, remove, require_new, write_text

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
ENTRIES, HEADER_BYTES = 100_000, 100 * 10**6  # of one file or index; the second is the format's own limit
CURE = "get the files again, whole and from one place; in a git clone: git lfs pull"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8}
DTYPES |= {"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a directory, in the stored dtypes: views of memory maps, read from disk as they are touched.

    From model.safetensors or its shards; where there are none, from pytorch_model.bin or its shards, which must hold nothing but
    tensors (an old file that is no zip archive is read whole). Writing to a tensor never changes the file.
    Raises ModelError naming the file, and the tensor or the shard, that is missing, damaged or not plain data.
    """
    for name, read in ((SAFETENSORS, read_safetensors), (PICKLED, read_pickled)):
        if (folder / name).exists():
            return read(folder / name)
        if (index := folder / f"{name}.index.json").exists():
            return _read_shards(index, read)
    cure = f"put {SAFETENSORS} there, or its shards and their index"
    raise ModelError("the weights are missing", where=str(folder / SAFETENSORS), cure=cure)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], shard_bytes: int = 5 * 10**9) -> None:
    """Write model.safetensors, or above shard_bytes model-00001-of-00003.safetensors … and their index, as transformers does.

    tensors may be made as they are asked for: one shard at a time is in memory. A single tensor above shard_bytes is a shard.
    Raises SettingError when the folder holds weights already. The index comes last: without it the shards are no model.
    """
    for old in folder.glob("model*.safetensors*"):
        require_new(old)
    parts, total = list[list[str]](), {"total_parameters": 0, "total_size": 0}
    with contextlib.ExitStack() as undo:
        for shard in _shards(tensors.items() if isinstance(tensors, Mapping) else tensors, shard_bytes):
            parts.append(sorted(shard))
            total["total_parameters"] += sum(tensor.numel() for tensor in shard.values())
            total["total_size"] += sum(tensor.nbytes for tensor in shard.values())
            undo.callback(remove, path := folder / f"model-{len(parts)}.safetensors")
            with atomic_path(path) as partial:
                save_file(shard, partial, metadata={"format": "pt"})
                partial.chmod(0o644)  # safetensors writes 0600
            shard.clear()  # before the next one is gathered
        names = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
        for number, name in enumerate(names if len(names) > 1 else [SAFETENSORS], start=1):
            undo.callback(remove, folder / name)
            (folder / f"model-{number}.safetensors").replace(folder / name)
        if len(names) > 1:
            index = {"metadata": total, "weight_map": {key: name for name, part in zip(names, parts, strict=True) for key in part}}
            write_text(folder / f"{SAFETENSORS}.index.json", json.dumps(index, indent=2) + "\n")
        undo.pop_all()  # all is written: nothing to undo


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard, filled, places = dict[str, Tensor](), 0, set[int]()
    for name, tensor in tensors:
        if shard and filled + tensor.nbytes > shard_bytes:
            yield shard
            shard, filled, places = {}, 0, set()
        tensor = tensor.detach().cpu().contiguous()
        shard[name] = tensor.clone() if tensor.data_ptr() in places else tensor  # one memory under two names is refused
        places.add(tensor.data_ptr())
        filled += tensor.nbytes
    yield shard


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all files that an index names; index and files must agree on every tensor."""
    promised, tensors = dict[str, set[str]](), dict[str, Tensor]()
    with _told(index), index.open("rb") as file:
        for name, shard in dict(_parse(file, index.stat().st_size).get("weight_map", {})).items():
            if not re.fullmatch(rf"\w[\w.-]*{re.escape(index.suffixes[0])}", str(shard)):  # it may not lead out of the folder
                raise ValueError(f"the index names {shown(shard)}, which is not a weight file beside it")
            promised.setdefault(shard, set()).add(name)
        if not promised:
            raise ValueError("the index names no files")
        if missing := sorted(shard for shard in promised if not (index.parent / shard).is_file()):
            raise ValueError(f"{len(missing)} of its {len(promised)} files are missing, among them {missing[0]}")
        for shard in sorted(promised):
            found = read(index.parent / shard)
            for name in sorted(promised[shard] ^ found.keys()):
                part, whole = ("the index", shard) if name in found else (shard, "the index")
                raise ValueError(f"the tensor {shown(name)} is in {whole} but not in {part}")
            tensors |= found
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """A file's tensors. What the library accepts or is slow to refuse is refused here before it sees the file."""
    with _told(path), path.open("rb") as file:
        room, length = path.stat().st_size - 8, int.from_bytes(file.read(8), "little")
        if length > room:
            raise ValueError(f"it is cut off, or no safetensors file (a header of {length:,} bytes in a file of {room + 8:,})")
        for name, entry in _parse(file, length).items():
            if isinstance(entry, dict) and name != "__metadata__" and entry.get("dtype") not in DTYPES:
                raise ValueError(f"the tensor {shown(name)} is stored as {shown(entry.get('dtype'))}, which is not supported")
        return load_file(path)


def read_pickled(path: Path) -> dict[str, Tensor]:
    """A torch.save file's tensors, {"state_dict": …} and {"model": …} unwrapped, through the unpickler that knows only tensors."""
    with _told(path), path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        if zipped and sum(item.file_size for item in ZipFile(file).infolist()) > path.stat().st_size:
            raise ValueError("it is compressed, which torch.save never does")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        for wrapper in ("state_dict", "model"):
            content = content.get(wrapper, content) if isinstance(content, dict) else None
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary of tensors")
        if odd := [name for name, value in content.items() if not isinstance(name, str) or not _is_plain(value)]:
            raise ValueError(f"{shown(odd[0])} is not a plain tensor")
        return {name: tensor.detach() for name, tensor in content.items()}


def _is_plain(value: object) -> bool:
    """Whether it is a dense tensor in memory that shows no more bytes than are stored of it."""
    if not isinstance(value, Tensor) or type(value) not in (Tensor, torch.nn.Parameter) or value.dtype not in DTYPES.values():
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and value.nbytes <= value.untyped_storage().nbytes()


def _parse(file: BinaryIO, length: int) -> dict[str, Any]:
    """The JSON object in the next bytes; refused unread or unparsed when it is larger than any model needs."""
    if length > HEADER_BYTES or (raw := file.read(length)).count(b"{") > ENTRIES + 2 or raw.count(b",") > 10 * ENTRIES:
        raise ValueError(f"it lists more than {ENTRIES:,} tensors, or more than {HEADER_BYTES:,} bytes of names")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(content := dict(pairs)) < len(pairs):
            raise ValueError("it gives two values under one name")
        return content

    if not isinstance(content := json.loads(raw.decode("utf-8"), object_pairs_hook=once), dict):
        raise ValueError("where its list of tensors should be there is something else")
    return content


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn whatever a stranger's file makes the libraries raise into one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        what, cure = f"the weights cannot be read: {shown(error) or type(error).__name__}", CURE
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            what, cure = f"the pickle wants to run {code[1]}, and code from data is never run", "ask for the model as safetensors"
        raise ModelError(what, where=str(path), cure=cure) from error


def shown(text: object) -> str:
    """A stranger's text for the terminal: one short line without control characters."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text)[:200].strip().split("\n")[0])
