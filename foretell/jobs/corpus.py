"""The corpus job: from sources to a corpus folder, and a look into one."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from foretell.base.console import Terminal
from foretell.base.errors import DataError, SettingError
from foretell.base.files import atomic_path, require_new, write_text
from foretell.base.records import dump, read_json
from foretell.base.units import count, size
from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Items, document_id, excerpt, reasons
from foretell.corpus.pipeline import Step, run, standard_steps
from foretell.corpus.sources import SourceFile, find_files
from foretell.corpus.store import MANIFEST, CorpusWriter, read_documents, read_dropped


def build_corpus(
    sources: Sequence[str], out: Path, settings: CorpusSettings, terminal: Terminal, sample_bytes: int | None = None
) -> dict[str, Any]:
    """Read, clean, filter and deduplicate the sources into the new corpus folder `out`; return its manifest.

    sample_bytes: where the sources hold more text than this, take whole files in the order of their hashes until it is reached.
    Raises SettingError (missing path, existing `out`) and DataError (nothing left).
    """
    require_new(out)
    with TemporaryDirectory(prefix="foretell-") as scratch:
        files = find_files(sources, Path(scratch))
        total_bytes = sum(file.bytes for file in files)
        if sample_bytes is not None and total_bytes > sample_bytes:
            files.sort(key=lambda file: document_id(file.name, 0, b""))  # a fair order: what comes first is the sample
            total_bytes = sample_bytes
        steps, read_bytes = standard_steps(files, settings, sample_bytes), 0
        with atomic_path(out) as folder, terminal.progress("corpus", total_bytes, "bytes") as progress:
            folder.mkdir()
            with closing(CorpusWriter(folder)) as writer:
                for document in run(steps, writer.drop):
                    writer.keep(document)
                    progress.advance(steps[0].bytes - read_bytes)
                    read_bytes = steps[0].bytes
            if not writer.totals["documents"]:
                raise _nothing_left(sources, writer)
            manifest = _manifest(files, settings, steps, writer)
            write_text(folder / MANIFEST, dump(manifest, indent=1) + "\n")
            write_text(folder / "report.html", writer.report(manifest))
    _say_summary(writer, terminal)
    terminal.say(f"corpus: {out}   report: {out / 'report.html'}")
    return manifest


def show_corpus(folder: Path, terminal: Terminal, *, dropped: bool, reason: str | None, limit: int) -> list[dict[str, Any]]:
    """Print the first `limit` documents of a corpus, or of what was left out of it; return them as records."""
    counts = read_json(folder / MANIFEST)["dropped"]
    if reason is not None and reason not in counts:
        cure = f"its reasons: {', '.join(counts) or 'none'}"
        raise SettingError(f"nothing was left out for {reason!r}", where=str(folder), cure=cure)
    items: Items = read_dropped(folder) if dropped or reason else read_documents(folder)
    shown = list(islice((asdict(item) for item in items if reason in (None, getattr(item, "reason", None))), max(0, limit)))
    for record in shown:
        terminal.say(f"{record.get('reason', record['id'])}  {record['source']}", "bold", result=True)
        terminal.say(f"{excerpt(record.get('text') or record.get('excerpt', ''))}\n", result=True)
    return shown


def _manifest(files: Sequence[SourceFile], settings: CorpusSettings, steps: Sequence[Step], writer: CorpusWriter) -> dict[str, Any]:
    return {
        "version": 1,
        "fingerprint": writer.digest.hexdigest(),
        "totals": writer.totals,
        "dropped": writer.dropped,
        "steps": [{"name": step.name, "documents": step.documents, "bytes": step.bytes, "dropped": step.dropped} for step in steps],
        "settings": settings.model_dump(mode="json"),
        "sources": [{"path": file.label, "bytes": file.bytes, "sha256": file.sha256} for file in files if file.sha256],
    }


def _nothing_left(sources: Sequence[str], writer: CorpusWriter) -> DataError:
    told = ", ".join(f"{reason} {amounts['documents']}" for reason, amounts in writer.dropped.items())
    most = max(writer.dropped, key=lambda reason: writer.dropped[reason]["documents"], default="no files")
    cure = f"{most}: {reasons().get(most, 'give text, Markdown, HTML, JSONL or Python files')}"
    first = "".join(f"; first {item.source} {item.excerpt}" for item in writer.examples.get(most, [])[:1])
    return DataError(f"no document is left: {told or 'there are no files'}", where=", ".join(sources[:3]) + first, cure=cure)


def _say_summary(writer: CorpusWriter, terminal: Terminal) -> None:
    formats = ", ".join(f"{name} {size(amount)}" for name, amount in writer.formats.most_common())
    rows = [["kept", count(writer.totals["documents"]), size(writer.totals["bytes"]), formats]]
    for reason, amounts in writer.dropped.items():
        rows.append([reason, count(amounts["documents"]), size(amounts["bytes"]), reasons().get(reason, "")])
    terminal.table(["", "documents", "text", ""], rows)
    if replaced := writer.totals["replaced_characters"]:
        terminal.say(f"{count(replaced)} characters could not be decoded; U+FFFD stands in their place")
