"""A difference is worth what was measured: pairs cancel what is hard for both, intervals alone are cautious."""

import math
import random
from typing import Any

import pytest

from foretell.evaluation.intervals import difference, student


def metric(value: float, margin: float | None = None, **more: Any) -> dict[str, Any]:
    bounds = {"low": None, "high": None} if margin is None else {"low": value - margin, "high": value + margin}
    return {"value": value, **bounds, "n": 9, "protocol": "one", **more}


def itemised(items: list[float]) -> dict[str, Any]:
    return metric(sum(items) / len(items), 0.5, items=items)


@pytest.mark.parametrize(("freedom", "expected"), [(4, 2.776445), (10, 2.228139), (30, 2.042272), (1000, 1.962339)])
def test_students_quantile_is_that_of_the_tables(freedom: int, expected: float) -> None:
    assert student(freedom) == pytest.approx(expected, rel=3e-3)


def test_pairs_show_what_intervals_cannot() -> None:
    chance = random.Random(1)
    hard = [chance.gauss(3, 1) for _ in range(50)]
    better = [item - 0.05 + chance.gauss(0, 0.02) for item in hard]
    paired, apart = difference(itemised(hard), itemised(better)), difference(metric(3.0, 0.3), metric(2.95, 0.3))
    assert paired["verdict"] == "lower" and paired["p"] < 1e-6 and paired["method"].startswith("paired: the same 50 items")
    assert paired["low"] < -0.05 < paired["high"] < 0
    assert apart["verdict"] == "cannot be told apart" and apart["p"] > 0.5 and apart["method"].startswith("from the two")


def test_a_paired_interval_is_the_textbooks() -> None:
    result = difference(itemised([1.0, 2.0, 3.0, 4.0, 5.0]), itemised([1.5, 2.0, 4.0, 4.5, 5.5]))
    assert result["difference"] == pytest.approx(0.5)
    assert result["high"] - result["low"] == pytest.approx(2 * 2.776445 * math.sqrt(0.125 / 5), rel=3e-3)
    assert result["verdict"] == "higher" and result["p"] < 0.05


def test_intervals_are_joined_as_of_independent_texts() -> None:
    result = difference(metric(2.0, 0.3), metric(2.5, 0.4))
    assert (result["low"], result["high"]) == (pytest.approx(0.0), pytest.approx(1.0)) and result["p"] == pytest.approx(0.05)
    assert difference(metric(2.0, 0.3), metric(1.4, 0.4))["verdict"] == "lower"
    assert difference(metric(2.0, 0.0), metric(2.0, 0.0))["p"] == 1.0 and difference(metric(2.0, 0.0), metric(3.0, 0.0))["p"] == 0.0


def test_what_cannot_be_paired_is_not() -> None:
    items = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    for other in (itemised(items[:-1]), itemised(items) | {"protocol": "two"}, metric(3.5, 0.5)):
        assert difference(itemised(items), other)["method"].startswith("from the two")
    assert difference(itemised(items[:4]), itemised(items[:4]))["method"].startswith("from the two")  # too few
    assert "different protocols" in difference(itemised(items), itemised(items) | {"protocol": "two"})["method"]


def test_without_an_interval_nothing_is_claimed() -> None:
    result = difference(metric(2.0), metric(2.5, 0.1))
    assert result["verdict"] == "unknown" and result["low"] is None and result["p"] is None and result["difference"] == 0.5


def test_the_error_rate_is_what_is_promised() -> None:
    """Of samples without any difference, one in twenty is called different."""
    chance, errors = random.Random(2), 0
    for _ in range(2000):
        left = [chance.gauss(0, 1) for _ in range(8)]
        errors += (
            difference(itemised(left), itemised([item + chance.gauss(0, 1) for item in left]))["verdict"] != "cannot be told apart"
        )
    assert 0.035 < errors / 2000 < 0.065
