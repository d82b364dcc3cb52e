"""`report.html` of a corpus: one file without network that shows what is in it, what is not, and why."""

from typing import Any

from foretell.base.units import count, duration, size
from foretell.corpus.document import reasons
from foretell.corpus.store import CorpusWriter


def render(manifest: dict[str, Any], written: CorpusWriter) -> str:
    """The page as HTML, from the manifest and what was gathered while writing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("foretell.corpus"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(count=count, size=size, duration=duration)
    spans = range(min(written.lengths), max(written.lengths) + 1)
    lengths = [(f"{count(2 ** (bits - 1))} – {count(2**bits)}", written.lengths[bits]) for bits in spans]
    shown = {"manifest": manifest, "written": written, "lengths": lengths, "reasons": reasons()}
    return environment.get_template("corpus.html.jinja").render(shown)
