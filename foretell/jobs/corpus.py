"""The corpus job: from sources to a corpus folder, and a look into one."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial, reduce
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from foretell.base.console import Terminal
from foretell.base.errors import DataError, SettingError
from foretell.base.files import only_writer, remove, require_new, sweep_partial, translated_write_errors, write_text
from foretell.base.machine import usable_processors
from foretell.base.records import dump, read_json
from foretell.base.units import count, size
from foretell.corpus import assemble
from foretell.corpus.chunks import Chunk, planned
from foretell.corpus.clusters import expected_recall
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Items, document_id, excerpt, reasons
from foretell.corpus.engines import Kind, run_tasks, workers_that_fit
from foretell.corpus.report import card, render
from foretell.corpus.sources import SourceFile, find_files
from foretell.corpus.store import CARD, MANIFEST, REPORT, read_documents, read_dropped
from foretell.corpus.trace import trace
from foretell.corpus.work import MARK, is_done, work

SHOWN_CHARACTERS = 1000
WHOLE_FILES = (
    *("no_text_column", "step_failed", "unreadable", "changed", "encrypted", "gzip_bomb", "wrong_format"),
    *("damaged_gzip", "broken_archive", "broken_table", "broken_warc", "broken_document"),
)  # reasons for which a file, not a document, could not be read


@dataclass(frozen=True)
class Engine:
    """Who does the work. share: (i, n), for the i-th of n processes that were started with the same command; absent = all of it."""

    kind: Kind = "local"
    workers: int = field(default_factory=usable_processors)
    address: str | None = None
    share: tuple[int, int] | None = None


def build_corpus(
    sources: Sequence[str],
    out: Path,
    settings: CorpusSettings,
    terminal: Terminal,
    sample_bytes: int | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Read, clean, filter and deduplicate the sources into the new corpus folder `out`; return its manifest.

    What is done is kept beside `out` until the end, and the same command goes on from there.
    sample_bytes: where the sources hold more than this, take whole files in the order of their hashes until it is reached.
    Raises SettingError (missing path, existing `out`, another build into it), DataError (nothing left), CapacityError.
    """
    engine = engine or Engine()
    require_new(out)
    building = out.with_name(f".building-{out.name}")
    with only_writer(building, shared=engine.share is not None), TemporaryDirectory(prefix="foretell-") as scratch:
        try:
            files = [file for file in find_files(sources, Path(scratch)) if building not in (file.path, *file.path.parents)]
            if sample_bytes is not None and sum(file.bytes for file in files) > sample_bytes:
                files.sort(key=lambda file: document_id(file.name, 0, b""))  # a fair order: what comes first is the sample
            build = Build(files, settings, terminal, engine, building)
            build.work(sample_bytes)
            if engine.share:
                return build.say_share(out)
            manifest = build.write(sources, out)
            remove(building)
        finally:
            if engine.share is None and not any(building.glob(f"chunks/*/{MARK}")):
                remove(building)
    terminal.say(f"corpus: {out}   report: {out / REPORT}")
    return manifest


class Build:
    """A corpus while it is built in the folder `building`."""

    def __init__(
        self, files: Sequence[SourceFile], settings: CorpusSettings, terminal: Terminal, engine: Engine, building: Path
    ) -> None:
        self.files, self.settings, self.terminal, self.engine, self.building = files, settings, terminal, engine, building
        self.chunks, self.folders = building / "chunks", list[Path]()
        self.workers = engine.workers if engine.address else workers_that_fit(engine.workers, settings.memory_bytes)
        if self.workers < engine.workers:
            terminal.say(f"{self.workers} workers, not {engine.workers}: more would not fit into corpus.memory_bytes")
        if engine.share is None:
            sweep_partial(building)

    def work(self, sample_bytes: int | None) -> None:
        """Take every chunk down the road that was not taken before."""
        if there := len(list(self.chunks.glob(f"*/{MARK}"))):
            self.terminal.say(f"going on with a build that was begun before: {count(there)} chunks are there")
        total_bytes = min(sum(file.bytes for file in self.files), sample_bytes or float("inf"))
        with self.terminal.progress("corpus", total_bytes, "bytes") as progress:

            def missing() -> Iterator[Chunk]:
                for number, chunk in enumerate(planned(self.files, self.settings, sample_bytes)):
                    self.folders.append(self.chunks / chunk.fingerprint)
                    mine = self.engine.share is None or number % self.engine.share[1] == self.engine.share[0] - 1
                    if is_done(chunk, self.chunks) or not mine:
                        progress.advance(chunk.source_bytes)
                    else:
                        yield chunk

            task = partial(work, settings=self.settings, folder=self.chunks)
            for done_bytes in self._run(task, missing()):
                progress.advance(done_bytes)
        if self.engine.share is None and not all((folder / MARK).is_file() for folder in self.folders):
            cure = "give --out on a disk that all machines of the cluster share"
            raise SettingError("what the workers wrote cannot be seen here", where=str(self.chunks), cure=cure)

    def write(self, sources: Sequence[str], out: Path) -> dict[str, Any]:
        """Decide what is a copy, write the corpus folder, and move it to `out`."""
        scratch, folder = self.building / "settled", self.building / "corpus"
        remove(scratch)
        remove(folder)
        scratch.mkdir()
        folder.mkdir()
        parts = assemble.parted(self.folders, self.settings)
        with translated_write_errors(out):
            assemble.decide(parts, self.settings, scratch)
        with self.terminal.progress("writing", len(parts), "parts") as progress:
            for _ in self._run(partial(assemble.settle, settings=self.settings, scratch=scratch), parts):
                progress.advance()
        finished = assemble.finish(parts, self.settings, scratch, folder)
        manifest = self._manifest(finished)
        if not manifest["totals"]["documents"]:
            remove(self.chunks)
            raise _nothing_left(sources, finished.dropped, folder)
        write_text(folder / MANIFEST, dump(manifest, indent=1) + "\n")
        recall = expected_recall(self.settings) if self.settings.near_duplicates else []
        write_text(folder / REPORT, render(manifest, finished.summary, recall))
        write_text(folder / CARD, card(manifest, finished.summary))
        folder.rename(out)
        self._say_summary(manifest)
        return manifest

    def say_share(self, out: Path) -> dict[str, Any]:
        """Where a build stands of which this process had a share."""
        done = sum((folder / MARK).is_file() for folder in self.folders)
        self.terminal.say(
            f"{done} of {len(self.folders)} chunks are there; when all are, the same command without --part writes {out}"
        )
        return {"chunks": len(self.folders), "done": done}

    def _run(self, function: Any, tasks: Any) -> Iterator[Any]:
        return run_tasks(function, tasks, self.workers, self.engine.kind, self.engine.address, self.terminal.say)

    def _manifest(self, finished: assemble.Finished) -> dict[str, Any]:
        marks = [read_json(folder / MARK)["steps"] for folder in self.folders]
        steps = reduce(assemble.added, [*marks, []])
        return {
            "version": 2,
            "fingerprint": finished.fingerprint,
            "totals": finished.totals,
            "dropped": finished.dropped,
            "steps": steps + finished.steps,
            "settings": self.settings.model_dump(mode="json"),
            "sources": [{"path": file.label, "bytes": file.bytes, "sha256": file.sha256} for file in self.files if file.sha256],
        }

    def _say_summary(self, manifest: dict[str, Any]) -> None:
        totals = manifest["totals"]
        rows = [["kept", count(totals["documents"]), size(totals["bytes"]), ""]]
        for reason, amounts in manifest["dropped"].items():
            rows.append([reason, count(amounts["documents"]), size(amounts["bytes"]), reasons().get(reason, "")])
        self.terminal.table(["", "documents", "text", ""], rows)
        if replaced := totals["replaced_characters"]:
            self.terminal.say(f"{count(replaced)} characters could not be decoded; U+FFFD stands in their place")


def require_readable(manifest: dict[str, Any], out: Path) -> None:
    """Refuse to pass in silence over files that could not be read, beyond `corpus.max_bad`. Raises DataError; the corpus stays."""
    dropped = manifest.get("dropped", {})  # a share of a build has none yet
    bad = {reason: dropped[reason]["documents"] for reason in WHOLE_FILES if reason in dropped}
    if bad and sum(bad.values()) > manifest["settings"]["max_bad"]:
        told = ", ".join(f"{reason} {number}" for reason, number in bad.items())
        cure = f"see `foretell corpus show {out} --reason {next(iter(bad))}`; corpus.max_bad={sum(bad.values())} allows so many"
        raise DataError(f"some files could not be read: {told}; the rest is in the corpus", where=str(out), cure=cure)


def show_corpus(folder: Path, terminal: Terminal, *, dropped: bool, reason: str | None, limit: int) -> list[dict[str, Any]]:
    """Print the first `limit` documents of a corpus, or of what was left out of it; return them as records."""
    manifest = read_json(folder / MANIFEST)
    if "dropped" not in manifest:
        raise SettingError("this is no corpus folder", where=str(folder), cure="give the folder of a `foretell corpus build`")
    counts = manifest["dropped"]
    if reason is not None and reason not in counts:
        cure = f"its reasons: {', '.join(counts) or 'none'}"
        raise SettingError(f"nothing was left out for {reason!r}", where=str(folder), cure=cure)
    items: Items = read_dropped(folder) if dropped or reason else read_documents(folder)
    shown = list(islice((asdict(item) for item in items if reason in (None, getattr(item, "reason", None))), max(0, limit)))
    for record in shown:
        about = record.get("metadata", {})
        told = [about.get("url"), about.get("fields", {}).get("subject"), about.get("language"), record.get("duplicate_of")]
        terminal.say("  ".join([record.get("reason", record["id"]), record["source"], *filter(None, told)]), "bold", result=True)
        terminal.say(f"{record.get('text', '')[:SHOWN_CHARACTERS] or record.get('excerpt', '')}\n", result=True)
    return shown


def trace_text(folder: Path, text: str, terminal: Terminal, *, limit: int) -> list[dict[str, Any]]:
    """Print the longest spans of a text (`-`: standard input) that stand verbatim in a corpus, and where; return them."""
    read_json(folder / MANIFEST)
    spans = trace(folder, sys.stdin.read() if text == "-" else text, limit)
    for span in spans:
        times = "once" if span.count == 1 else f"{count(span.count)} times"
        terminal.say(f"{span.stop - span.start} characters, {times}: {excerpt(span.text)}", "bold", result=True)
        for place in span.places:
            terminal.say(f"  {place.id}  {place.source}\n    … {excerpt(place.excerpt)} …", result=True)
    if not spans:
        terminal.say("nothing of it stands in this corpus", result=True)
    return [asdict(span) for span in spans]


def _nothing_left(sources: Sequence[str], dropped: Mapping[str, Mapping[str, int]], folder: Path) -> DataError:
    told = ", ".join(f"{reason} {amounts['documents']}" for reason, amounts in dropped.items())
    most = max(dropped, key=lambda reason: dropped[reason]["documents"], default="no files")
    cure = f"{most}: {reasons().get(most, 'give text, pages, tables, archives or papers')}"
    first = next((f"; first {item.source} {item.excerpt}" for item in read_dropped(folder) if item.reason == most), "")
    return DataError(f"no document is left: {told or 'there are no files'}", where=", ".join(sources[:3]) + first, cure=cure)


def chosen_engine(kind: Kind, workers: int | None, address: str | None, share: str | None) -> Engine:
    """The engine that a command line asks for. Raises SettingError."""
    if workers is not None and workers < 1:
        raise SettingError(f"{workers} workers can do nothing", where="--workers", cure="give 1 or more, or leave it out")
    if address and kind != "ray":
        raise SettingError("--ray-address is an address of Ray", where="--ray-address", cure="add --engine ray")
    found = re.fullmatch(r"(\d+)/(\d+)", share or "")
    if share and not (found and 1 <= int(found[1]) <= int(found[2])):
        raise SettingError(f"{share!r} is no share", where="--part", cure="give --part 1/4 to --part 4/4 to four commands")
    part = (int(found[1]), int(found[2])) if found else None
    return Engine(kind, usable_processors() if workers is None else workers, address, part)
