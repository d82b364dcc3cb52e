"""Duplicates: the first stays, what is left out resembles what stays, and the answer never depends on how it is computed."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foretell.corpus import clusters as module
from foretell.corpus.clusters import EXACT, KEPT, NEAR, duplicates, expected_recall, first_rows
from foretell.corpus.config import CorpusSettings
from foretell.corpus.signatures import mixed, signature_type, signatures

THREE = CorpusSettings(bands=3)
RECORDS = st.lists(st.tuples(st.integers(0, 9), *[st.integers(0, 6)] * 3, st.integers(0, 1)), max_size=40)


def records(rows: list[tuple[int, ...]]) -> NDArray[np.void]:
    """Signatures out of small numbers (digest, three bands, sketch); equal digests have equal bands and sketches."""
    table = np.zeros(len(rows), signature_type(THREE))
    bands_of: dict[int, tuple[int, ...]] = {}
    for record, (exact, *rest) in zip(table, rows, strict=True):
        record["exact"] = (exact // 2, exact)
        *found, sketch = bands_of.setdefault(exact, tuple(rest))
        record["bands"], record["sketch"] = found, sketch
    table["bands"] = mixed(table["bands"])  # spread over all shares
    return table


def naive(table: NDArray[np.void]) -> tuple[list[int], list[int]]:
    instead, kind, stay = list[int](), list[int](), list[int]()
    for number, record in enumerate(table):
        holders = {next((other for other in stay if table[other]["bands"][band] == record["bands"][band]), -1) for band in range(3)}
        first = next((other for other in sorted(holders - {-1}) if (table[other]["sketch"] == record["sketch"]).all()), -1)
        copy = next((other for other in stay if (table[other]["exact"] == record["exact"]).all()), -1)
        stay += [number] if first == copy == -1 else []
        kind.append(EXACT if copy >= 0 else NEAR if first >= 0 else KEPT)
        instead.append(copy if copy >= 0 else first)
    return instead, kind


def decided(table: NDArray[np.void], cuts: list[int], settings: CorpusSettings = THREE) -> tuple[list[int], list[int]]:
    with TemporaryDirectory() as name:
        files = []
        for number, part in enumerate(np.split(table, sorted(cut % (len(table) + 1) for cut in cuts))):
            files.append(Path(name, f"{number}.npy"))
            np.save(files[-1], part)
        instead, kind = duplicates(files, settings, Path(name))
        assert len(list(Path(name).iterdir())) == len(files)
    return instead.tolist(), kind.tolist()


@given(RECORDS, st.lists(st.integers(0, 40), max_size=4), st.sampled_from([1, 3, 2**16]), st.sampled_from([100, 2**27]))
@settings(deadline=None, max_examples=60)
def test_the_rule_in_any_chunks_blocks_and_shares(rows: list[tuple[int, ...]], cuts: list[int], block: int, row: int) -> None:
    table = records(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "SORT_BYTES", row)
        assert decided(table, cuts) == naive(table)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60), st.sampled_from([200, 1000, 2**30]))
def test_first_rows(rows: list[tuple[int, int]], memory: int) -> None:
    table = np.array(rows, np.uint64).reshape(-1, 2) << np.uint64(62)
    out = np.zeros(len(rows), np.int64)
    first_rows([table[:7], table[7:]], out, memory)
    assert out.tolist() == [rows.index(row) for row in rows]


def test_no_chains() -> None:
    table = records([(0, 1, 2, 3, 0), (1, 1, 5, 6, 0), (2, 7, 5, 8, 0), (3, 7, 9, 9, 0), (2, 0, 0, 0, 0), (1, 0, 0, 0, 0)])
    assert decided(table, []) == ([-1, 0, -1, 2, 2, 0], [KEPT, NEAR, KEPT, NEAR, EXACT, NEAR])


def test_exact_alone_and_nothing_at_all() -> None:
    exact = CorpusSettings(near_duplicates=False)
    assert decided(signatures(["a", "A", "a"], exact), [1], exact) == ([-1, -1, 0], [KEPT, KEPT, EXACT])
    assert decided(signatures([], THREE), []) == ([], [])


def test_expected_recall() -> None:
    curve: dict[Any, float] = dict(expected_recall(CorpusSettings()))
    assert [round(curve[share], 2) for share in (0.5, 0.7, 0.8, 1.0)] == [0.05, 0.56, 0.92, 1.0]
