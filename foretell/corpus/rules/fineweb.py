"""What is a list or a menu rather than prose. Source: Penedo et al. 2024 (FineWeb), 3.6; limits as in its released code."""

from foretell.corpus.rules.gopher import repeated
from foretell.corpus.rules.signs import ends_sentence
from foretell.corpus.scan import Rule, Scan, share

SHORT_CHARACTERS = 30


def _lines(scan: Scan) -> list[str]:
    return [line for line in scan.lines if line and not line.isspace()]


def _punctuated(scan: Scan) -> float:
    lines = _lines(scan)
    return share(sum(ends_sentence(line[-1]) for line in lines), len(lines))


def _short(scan: Scan) -> float:
    lines = _lines(scan)
    return share(sum(len(line) <= SHORT_CHARACTERS for line in lines), len(lines))


RULES = (
    Rule("fineweb_line_punctuation", _punctuated, at_least=0.12),
    Rule("fineweb_short_lines", _short, at_most=0.67),
    Rule(
        "fineweb_repeated_lines",
        lambda scan: share(repeated(_lines(scan))[1], len(scan.text) - scan.text.count("\n")),
        at_most=0.01,
    ),
    Rule("fineweb_newlines", lambda scan: share(scan.text.count("\n"), scan.counts["words"]), at_most=0.3),
)
