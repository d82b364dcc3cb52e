"""From chunks to a corpus: what is a copy of what is decided once for all documents, then workers write the final files."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b, sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.base.files import atomic_path, write_text
from foretell.base.records import dump, read_json, read_records
from foretell.corpus.clusters import EXACT, KEPT, NEAR, duplicates
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Document, Dropped
from foretell.corpus.lines import seen_before, without_repeated
from foretell.corpus.pipeline import Step, counts
from foretell.corpus.report import Summary
from foretell.corpus.store import DOCUMENTS_PART, DROPPED_PART, JsonLines
from foretell.corpus.substrings import repeated_spans, without_spans
from foretell.corpus.work import DOCUMENTS, DROPPED, IDENTITIES, IDENTITY, LINES, MARK, SIGNATURES

PART_BYTES = 2**27  # of text in a documents file
MOST_PARTS = 200  # of a shuffled corpus: so many files are open at once, and one of them is held in memory
COUNTED, DROPS = "counted.json", "dropped"


@dataclass(frozen=True)
class Portion:
    """A chunk's folder, and the number of its first document among all."""

    folder: Path
    first: int


@dataclass(frozen=True)
class Part:
    """The chunks that become one documents file. parts: how many such files there will be."""

    number: int
    portions: tuple[Portion, ...]
    parts: int


Later = Callable[[Portion, int, Document], Document | Dropped]


def parted(folders: Sequence[Path], settings: CorpusSettings) -> list[Part]:
    """Neighbouring chunks in groups of some PART_BYTES of text; of a corpus to be shuffled at most MOST_PARTS groups."""
    marks = [read_json(folder / MARK) for folder in folders]
    most_bytes = PART_BYTES if settings.shuffle is None else max(PART_BYTES, sum(mark["bytes"] for mark in marks) // MOST_PARTS)
    groups, filled, first = [list[Portion]()], 0, 0
    for folder, mark in zip(folders, marks, strict=True):
        if groups[-1] and filled + mark["bytes"] > most_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(Portion(folder, first))
        first, filled = first + mark["documents"], filled + mark["bytes"]
    return [Part(number, tuple(group), len(groups)) for number, group in enumerate(groups)]


def decide(parts: Sequence[Part], settings: CorpusSettings, scratch: Path) -> None:
    """Find the copies among all documents; what is to be known of them lies in `scratch`, for the workers to map."""
    portions = [portion for part in parts for portion in part.portions]
    decisions = duplicates([portion.folder / SIGNATURES for portion in portions], settings, scratch)
    np.save(scratch / "instead.npy", decisions.instead)
    np.save(scratch / "kind.npy", decisions.kind)
    with (scratch / "identities.bin").open("wb") as stream:
        for portion in portions:
            stream.write(np.load(portion.folder / IDENTITIES).tobytes())
    if settings.duplicate_lines != "keep":
        bounds = [*(portion.first for portion in portions), len(decisions.kind)]
        stays = [decisions.kind[start:stop] == KEPT for start, stop in pairwise(bounds)]
        found = seen_before([portion.folder / LINES for portion in portions], stays, settings, scratch)
        for portion, lines in zip(portions, found, strict=True):
            np.save(scratch / f"lines-{portion.first}.npy", lines)
    if settings.substring_bytes:
        steps = later_steps(settings, scratch)
        texts = ((number, item.text) for part in parts for number, item in _settled(part, steps) if isinstance(item, Document))
        spans = [(number, *span) for number, some in repeated_spans(texts, settings, scratch) for span in some]
        np.save(scratch / "spans.npy", np.array(spans, np.int64).reshape(-1, 3))


class Verdicts:
    """What was decided, looked up by the number of a document."""

    def __init__(self, settings: CorpusSettings, scratch: Path) -> None:
        self._settings, self._scratch = settings, scratch
        self._instead, self._kind = (np.load(scratch / name, mmap_mode="r") for name in ("instead.npy", "kind.npy"))
        self._identities: NDArray[np.bytes_] = (
            np.memmap(scratch / "identities.bin", IDENTITY, "r") if len(self._kind) else np.empty(0, IDENTITY)
        )
        self.knows_spans = (scratch / "spans.npy").is_file()
        self._spans = np.load(scratch / "spans.npy", mmap_mode="r") if self.knows_spans else np.empty((0, 3), np.int64)
        self._lines: tuple[int, NDArray[np.void]] | None = None

    def copy(self, kind: int, _: Portion, number: int, document: Document) -> Document | Dropped:
        """Leave out a copy of this kind, and name what stays in its place."""
        if self._kind[number] != kind:
            return document
        reason = "exact_duplicate" if kind == EXACT else "near_duplicate"
        return document.dropped(reason, self._identities[self._instead[number]].decode())

    def lines(self, portion: Portion, number: int, document: Document) -> Document | Dropped:
        """Take out the lines that stood in an earlier document."""
        if self._lines is None or self._lines[0] != portion.first:
            self._lines = portion.first, np.load(self._scratch / f"lines-{portion.first}.npy")
        table = self._lines[1]
        keys = table["key"][table["document"] == number - portion.first]
        return _shortened(document, without_repeated(document.text, keys, self._settings))

    def spans(self, _: Portion, number: int, document: Document) -> Document | Dropped:
        """Take out the sequences that stood earlier."""
        first, last = np.searchsorted(self._spans[:, 0], [number, number + 1])
        return _shortened(
            document, without_spans(document.text, [(start, stop) for _, start, stop in self._spans[first:last].tolist()])
        )


def _shortened(document: Document, text: str) -> Document | Dropped:
    """The document with what is left of its text, and the count of what is not."""
    if text == document.text:
        return document
    if not text.strip():
        return document.dropped("repeated_text")
    gone = document.metadata.get("repeated_characters", 0) + len(document.text) - len(text)
    return replace(document, text=text.strip("\n"), metadata={**document.metadata, "repeated_characters": gone})


def later_steps(settings: CorpusSettings, scratch: Path) -> list[tuple[Step, Later]]:
    """What a document meets when all others are known."""
    verdicts = Verdicts(settings, scratch)
    steps: list[tuple[str, Later]] = [("exact duplicates", partial(verdicts.copy, EXACT))]
    if settings.near_duplicates:
        steps.append(("near duplicates", partial(verdicts.copy, NEAR)))
    if settings.duplicate_lines != "keep":
        steps.append(("repeated lines", verdicts.lines))
    if verdicts.knows_spans:
        steps.append(("repeated sequences", verdicts.spans))
    return [(Step(name, iter), function) for name, function in steps]


def settle(part: Part, settings: CorpusSettings, scratch: Path) -> int:
    """Write a part's documents (to be shuffled: by the part in which they will lie) and drops into a folder; its number."""
    folder = scratch / f"part-{part.number:05d}"
    if folder.is_dir():
        return part.number
    summary, steps, seed = Summary(), later_steps(settings, scratch), settings.shuffle
    totals, dropped = Counter[str](documents=0, bytes=0, characters=0, replaced_characters=0), dict[str, Counter[str]]()
    with atomic_path(folder) as unfinished, ExitStack() as files:
        unfinished.mkdir()
        drops = files.enter_context(closing(JsonLines(unfinished / DROPS)))
        names = [f"to-{number:05d}" for number in range(1 if seed is None else part.parts)]
        writers = [files.enter_context(closing(JsonLines(unfinished / name))) for name in names]
        for _, item in _settled(part, steps):
            if isinstance(item, Dropped):
                drops.add(item)
                summary.drop(item)
                dropped.setdefault(item.reason, Counter()).update(documents=1, bytes=item.bytes)
            else:
                writers[0 if seed is None else place(item.id, seed) * part.parts >> 64].add(item)
                summary.add(item)
                replaced = item.metadata.get("replaced_characters", 0)
                totals.update(documents=1, bytes=item.bytes, characters=len(item.text), replaced_characters=replaced)
        told = {"digest": writers[0].digest.hexdigest(), "steps": [counts(step) for step, _ in steps], "totals": totals}
        write_text(unfinished / COUNTED, dump({**told, "dropped": dropped, "summary": summary.to_json()}))
    return part.number


def _settled(part: Part, steps: Sequence[tuple[Step, Later]]) -> Iterator[tuple[int, Document | Dropped]]:
    """The part's documents after the last steps, with their numbers, and everything that was left out, chunk by chunk."""
    for portion in part.portions:
        yield from ((-1, Dropped(**record)) for record in read_records(portion.folder / DROPPED))
        for number, record in enumerate(read_records(portion.folder / DOCUMENTS), portion.first):
            item: Document | Dropped = Document(**record)
            for step, function in steps:
                assert isinstance(item, Document)  # noqa: S101 - a drop ends the loop
                item = function(portion, number, item)
                if isinstance(item, Dropped):
                    step.dropped[item.reason] += 1
                    break
                step.documents += 1
                step.bytes += item.bytes
            yield number, item


def place(identity: str, seed: int) -> int:
    """Where a document comes in the shuffled order: 64 bits of a keyed hash of its id."""
    return int.from_bytes(blake2b(identity.encode(), key=b"foretell %d" % seed, digest_size=8).digest(), "big")


def gather(number: int, parts: int, seed: int, scratch: Path) -> tuple[Path, str]:
    """Put a shuffled documents file together from what all parts hold for it; the file and its digest."""
    pieces = (scratch / f"part-{part:05d}" / f"to-{number:05d}" for part in range(parts))
    documents = [Document(**record) for piece in pieces for record in read_records(piece)]
    path = scratch / f"shuffled-{number:05d}"
    with atomic_path(path) as unfinished, closing(JsonLines(unfinished)) as writer:
        for document in sorted(documents, key=lambda document: (place(document.id, seed), document.id)):
            writer.add(document)
    return path, writer.digest.hexdigest()


class Finished(NamedTuple):
    """What is to be told of a corpus. dropped: documents and bytes by reason. steps: the last ones' counts."""

    fingerprint: str
    totals: Counter[str]
    dropped: dict[str, Counter[str]]
    steps: list[dict[str, Any]]
    summary: Summary


def finish(parts: Sequence[Part], settings: CorpusSettings, scratch: Path, out: Path) -> Finished:
    """Move the settled parts into the corpus folder `out`, and add up what was counted."""
    summary, digests, steps = Summary(), list[str](), list[dict[str, Any]]()
    totals, dropped = Counter[str](), dict[str, Counter[str]]()
    for part in parts:
        folder = scratch / f"part-{part.number:05d}"
        counted = read_json(folder / COUNTED)
        summary.merge(Summary.from_json(counted["summary"]))
        steps = added(steps, counted["steps"])
        totals.update(counted["totals"])
        for reason, amounts in counted["dropped"].items():
            dropped.setdefault(reason, Counter()).update(amounts)
        documents = folder / "to-00000"
        if settings.shuffle is not None:
            documents, counted["digest"] = gather(part.number, len(parts), settings.shuffle, scratch)
        digests.append(counted["digest"])
        documents.rename(out / DOCUMENTS_PART.format(part.number))
        (folder / DROPS).rename(out / DROPPED_PART.format(part.number))
    return Finished(sha256("".join(digests).encode()).hexdigest(), totals, dropped, steps, summary)


def added(steps: list[dict[str, Any]], more: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The counts of the same steps over two shares of the documents, together."""
    if not steps or not more:
        return steps or more
    return [
        {
            "name": one["name"],
            "documents": one["documents"] + other["documents"],
            "bytes": one["bytes"] + other["bytes"],
            "dropped": Counter(one["dropped"]) + Counter(other["dropped"]),
        }
        for one, other in zip(steps, more, strict=True)
    ]
