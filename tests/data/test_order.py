import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.order import epoch_offset, window_indices

SEEDS = st.integers(-(2**70), 2**70)


@given(SEEDS, st.integers(1, 3000), st.integers(0, 10**6))
def test_each_epoch_is_a_permutation(seed: int, windows: int, epoch: int) -> None:
    epochs, indices = window_indices(seed, epoch * windows, windows, windows)
    assert set(epochs.tolist()) == {epoch}
    assert np.array_equal(np.sort(indices), np.arange(windows))


@given(SEEDS, st.integers(0, 10**9), st.integers(1, 500), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_a_block_equals_its_parts(seed: int, start: int, windows: int, counts: list[int]) -> None:
    whole = np.stack(window_indices(seed, start, sum(counts), windows))
    firsts = start + np.cumsum([0, *counts[:-1]])
    parts = [np.stack(window_indices(seed, int(first), count, windows)) for first, count in zip(firsts, counts, strict=True)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    assert np.array_equal(whole[0], np.arange(start, start + sum(counts)) // windows)


@pytest.mark.parametrize("windows", [2**20, 2**20 + 1, 10**12])
def test_large_numbers_of_windows(windows: int) -> None:
    _, indices = window_indices(1, windows - 500, 1000, windows)
    assert len(set(indices[:500].tolist())) == len(set(indices[500:].tolist())) == 500
    assert indices.min() >= 0
    assert indices.max() < windows


def test_seeds_and_epochs_differ() -> None:
    orders = {window_indices(seed, epoch * 1000, 1000, 1000)[1].tobytes() for seed in range(30) for epoch in range(30)}
    assert len(orders) == 900


def test_it_keeps_no_state() -> None:
    first = window_indices(3, 100, 50, 77)[1]
    window_indices(4, 5, 60, 13)
    assert np.array_equal(window_indices(3, 100, 50, 77)[1], first)


def test_the_order_stays_what_it_was() -> None:
    """A run from an older version must resume exactly: these numbers may never change."""
    assert window_indices(1, 8, 8, 10)[1].tolist() == [7, 8, 0, 8, 5, 3, 9, 2]
    assert epoch_offset(1, np.arange(5), 100).tolist() == [94, 6, 43, 95, 48]


@pytest.mark.parametrize("windows", [7, 64, 100, 1000])
def test_every_window_comes_everywhere_equally_often(windows: int) -> None:
    epochs = 4000
    _, indices = window_indices(5, 0, epochs * windows, windows)
    for position in (0, windows // 2, windows - 1):
        seen = np.bincount(indices.reshape(epochs, windows)[:, position], minlength=windows)
        chi_squared = ((seen - epochs / windows) ** 2 / (epochs / windows)).sum()
        assert abs(chi_squared - (windows - 1)) < 5 * np.sqrt(2 * (windows - 1))


def test_neighbours_are_scattered() -> None:
    _, indices = window_indices(9, 0, 100_000, 100_000)
    assert abs(np.corrcoef(indices[:-1], indices[1:])[0, 1]) < 0.02
    assert (np.abs(np.diff(indices)) == 1).mean() < 1e-3


def test_offsets_are_uniform_and_differ() -> None:
    offsets = epoch_offset(2, np.arange(10_000), 16)
    seen = np.bincount(offsets, minlength=16)
    assert len(seen) == 16
    assert ((seen - 625) ** 2 / 625).sum() < 15 + 5 * np.sqrt(30)
    assert not np.array_equal(offsets, epoch_offset(3, np.arange(10_000), 16))
    assert np.array_equal(epoch_offset(2, np.array([5, 5]), 16), offsets[[5, 5]])
