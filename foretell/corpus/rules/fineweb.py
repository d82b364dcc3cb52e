"""What is a list or a menu rather than prose. Source: Penedo et al. 2024 (FineWeb), 3.6; limits as in its released code."""

from foretell.corpus.rules.gopher import repeated
from foretell.corpus.rules.signs import ends_sentence
from foretell.corpus.scan import Rule, Scan, share

SHORT_CHARACTERS = 30
MAX_NEWLINES = 0.3


def _punctuated(scan: Scan) -> float:
    return share(sum(ends_sentence(line[-1]) for line in scan.written_lines), len(scan.written_lines))


def _short(scan: Scan) -> float:
    return share(sum(len(line) <= SHORT_CHARACTERS for line in scan.written_lines), len(scan.written_lines))


def _newlines(scan: Scan) -> float:
    """Line feeds a word, of which a run of visible characters holds at least one: most texts are decided by their first runs."""
    newlines = scan.text.count("\n")
    bound = share(newlines, len(scan.text.split(None, 4 * newlines)))
    return bound if bound <= MAX_NEWLINES else share(newlines, scan.counts["words"])


RULES = (
    Rule("fineweb_line_punctuation", _punctuated, at_least=0.12),
    Rule("fineweb_short_lines", _short, at_most=0.67),
    Rule(
        "fineweb_repeated_lines",
        lambda scan: share(repeated(scan.written_lines)[1], len(scan.text) - scan.text.count("\n")),
        at_most=0.01,
    ),
    Rule("fineweb_newlines", _newlines, at_most=MAX_NEWLINES),
)
