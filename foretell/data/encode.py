"""Documents to tokens, by several processes: each group of documents into a file of its own, so that a killed build goes on."""

import hashlib
import os
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import chain, islice
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray

from foretell.base.errors import DataError, SettingError
from foretell.base.files import atomic_path, only_writer, remove, sweep_partial, translated_write_errors
from foretell.base.groups import grouped
from foretell.corpus.document import Document
from foretell.corpus.engines import run_tasks
from foretell.data.held_out import HeldOut
from foretell.data.shards import IDENTITY
from foretell.tokenizers.tokenizer import Tokenizer

GROUP_CHARACTERS = 4_000_000  # encoded together
FEW = 100  # tasks that begin no processes: the libraries need no second for each, and processes as long to begin
LONG_SECONDS = 0.5  # of encoding, after which a group is kept for a build that is begun again

Texts = list[tuple[str, str]]
"""Document id and text."""


class Group(NamedTuple):
    """Encoded documents of one split. counts: of each document its tokens (with end_of_text), characters, bytes, unknown tokens."""

    split: str
    tokens: NDArray[Any]
    identities: NDArray[Any]
    counts: NDArray[np.int64]


class Task(NamedTuple):
    """What one call encodes. number: its place among all."""

    number: int
    split: str
    texts: Texts


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` for what is encoded, kept after a kill or on a full disk, for the same command to go on with.

    Raises SettingError while another process builds the same shards.
    """
    folder = out.with_name(f".building-{out.name}")
    with translated_write_errors(out), only_writer(folder):
        try:
            sweep_partial(folder)
            yield folder
        except (DataError, SettingError):
            remove(folder)
            raise
        remove(folder)


def tasks(documents: Iterable[Document], held_out: HeldOut) -> Iterator[Task]:
    """The texts of some documents at a time, those that are trained on before those that are held out."""
    number = 0
    for group in grouped(documents, lambda document: len(document.text), GROUP_CHARACTERS):
        splits: dict[str, Texts] = {"train": [], "held_out": []}
        for document in group:
            for split, text in held_out.split(document.id, document.text).items():
                splits[split].append((document.id, text))
        for split, texts in splits.items():
            if texts:
                yield Task(number, split, texts)
                number += 1


def encoded(
    work: Iterable[Task], folder: Path, tokenizer: Tokenizer, fingerprint: str, dtype: str, workers: int
) -> Generator[Group, None, None]:
    """The groups of all tasks in their order, whoever was done first. The first FEW tasks are done here, all with one worker.

    What lies in the work folder is not encoded again.
    """
    remaining, kept = iter(work), any(folder.glob("*.npz"))
    fingerprint = f"{fingerprint} {tokenizer.end_of_text}"  # tokenizers that differ in nothing else have the same one
    here = partial(_encoded_here, folder, fingerprint, tokenizer, dtype, kept)
    with ThreadPoolExecutor(1) as pool:  # one group is encoded while the one before it is written
        waiting: Future[Group] | None = None
        for task in islice(remaining, None if workers == 1 else FEW):
            before, waiting = waiting, pool.submit(here, task)
            if before:
                yield before.result()
        if waiting:
            yield waiting.result()
    if (first := next(remaining, None)) is None:
        return
    tokenizer.save(folder / "tokenizer")
    done: dict[int, tuple[str, Path]] = {}
    awaited = first.number
    for number, split, path in run_tasks(partial(encode_group, folder, fingerprint, dtype), chain([first], remaining), workers):
        done[number] = split, path
        while awaited in done:
            yield _read(*done.pop(awaited))
            awaited += 1


def encode_group(folder: Path, fingerprint: str, dtype: str, task: Task) -> tuple[int, str, Path]:
    """Encode a task's texts into a file that is named for them, unless it lies there: the task's number and split, and the file."""
    path = _place(folder, fingerprint, dtype, task)
    if not _is_whole(path):
        _write(_encode(_tokenizer(folder / "tokenizer", fingerprint), dtype, task), path)
    return task.number, task.split, path


def _encoded_here(folder: Path, fingerprint: str, tokenizer: Tokenizer, dtype: str, kept: bool, task: Task) -> Group:
    """The same in this process. A file is written where encoding again would take long, and looked for where some were kept."""
    if kept and _is_whole(path := _place(folder, fingerprint, dtype, task)):
        return _read(task.split, path)
    begun = time.monotonic()
    group = _encode(tokenizer, dtype, task)
    if time.monotonic() - begun > LONG_SECONDS:
        _write(group, _place(folder, fingerprint, dtype, task))
    return group


def _encode(tokenizer: Tokenizer, dtype: str, task: Task) -> Group:
    texts = [text for _, text in task.texts]
    ids, end = tokenizer.encode_batch(texts), np.array([tokenizer.end_of_text], np.uint32)
    unknown = [0 if tokenizer.unknown is None else int((part == tokenizer.unknown).sum()) for part in ids]
    sizes = [len(text) if text.isascii() else len(text.encode()) for text in texts]
    counts = np.array([[len(part) + 1 for part in ids], list(map(len, texts)), sizes, unknown], np.int64).T
    identities = np.array([identity for identity, _ in task.texts], IDENTITY)
    tokens = np.concatenate([piece for part in ids for piece in (part, end)], dtype=dtype, casting="unsafe")
    return Group(task.split, tokens, identities, counts)


def _place(folder: Path, fingerprint: str, dtype: str, task: Task) -> Path:
    """The file of a task: its name is the digest of all that its content depends on."""
    content = hashlib.sha256(f"{fingerprint} {dtype}".encode())
    for identity, text in task.texts:
        written = text.encode("utf-8", "surrogatepass")
        content.update(f"{identity} {len(written)} ".encode())
        content.update(written)
    return folder / f"{content.hexdigest()}.npz"


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, fingerprint: str) -> Tokenizer:
    """The one with this fingerprint. In a worker one thread works: there are as many workers as there may be threads."""
    if parent_process() is not None:
        os.environ["RAYON_NUM_THREADS"] = "1"
    return Tokenizer.load(folder)


def _is_whole(path: Path) -> bool:
    try:
        return path.is_file() and bool(_read("", path))
    except (BadZipFile, ZlibError, OSError, ValueError, KeyError):
        return False


def _write(group: Group, path: Path) -> None:
    with atomic_path(path) as partial_path, partial_path.open("wb") as stream:
        np.savez(stream, tokens=group.tokens, identities=group.identities, counts=group.counts)


def _read(split: str, path: Path) -> Group:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as parts:
        return Group(split, parts["tokens"], parts["identities"], parts["counts"])
