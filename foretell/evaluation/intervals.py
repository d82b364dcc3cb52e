"""What the difference of two scores is worth: paired where items can be matched, else from the two intervals."""

import math
import statistics
from typing import Any

Z = statistics.NormalDist().inv_cdf(0.975)
FEWEST = 5  # items that are paired: with fewer, the interval would rest on the law that is assumed
PAIRED = "paired: the same {n} items on both sides, Student's t over their differences"
INDEPENDENT = "from the two 95 % intervals, as if measured on independent texts (Welch); on the same text this is cautious"


def difference(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """second − first with its 95 % interval, two-sided p, verdict and method. Both: metrics of evaluation.json.

    A metric may carry `items`, one score per example or window in the order of the text; where they can be matched they are
    paired. The verdict is of this one comparison: of twenty, one errs.
    """
    same = first.get("protocol") == second.get("protocol")
    gap, margin, method = second["value"] - first["value"], None, "no interval on one side: nothing can be said"
    if matched(first, second):
        gaps = [b - a for a, b in zip(first["items"], second["items"], strict=True)]
        gap, error = statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))
        margin, method = student(len(gaps) - 1) * error, PAIRED.format(n=len(gaps))
    elif all(metric.get(bound) is not None for metric in (first, second) for bound in ("low", "high")):
        margin, method = math.hypot(*((metric["high"] - metric["low"]) / 2 for metric in (first, second))), INDEPENDENT
    method += "" if same else "; measured by different protocols"
    if margin is None:
        return {"difference": gap, "low": None, "high": None, "p": None, "verdict": "unknown", "method": method}
    p = math.erfc(Z * abs(gap) / margin / math.sqrt(2)) if margin else float(gap == 0)  # 0.05 where the interval ends at 0
    verdict = "higher" if gap > margin else "lower" if gap < -margin else "cannot be told apart"
    return {"difference": gap, "low": gap - margin, "high": gap + margin, "p": p, "verdict": verdict, "method": method}


def matched(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two metrics hold scores of the same items: as many, by one protocol, of one text (`items_of`, its digest)."""
    same = all(first.get(name) == second.get(name) for name in ("protocol", "items_of"))
    return same and len(first.get("items") or []) == len(second.get("items") or []) >= FEWEST


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, within 0.3 % from 4 degrees of freedom on (Hill 1970, Algorithm 396)."""
    terms = (Z**3 + Z) / 4, (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96, (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    return Z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))
