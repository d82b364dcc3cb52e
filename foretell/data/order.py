"""The order of the training data: a pure function of (seed, sample number, number of windows), with no list and no state.

The windows of each epoch are permuted by a keyed Feistel network with cycle walking (Black & Rogaway 2002, "Ciphers with
arbitrary finite domains"), whose mixing function is the finaliser of splitmix64 (Steele et al. 2014).
"""

from math import isqrt

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Words = NDArray[np.uint64]  # always one-dimensional: arrays wrap around in silence, single numbers warn

ROUNDS = 6
STRIDE, OTHER_STRIDE, WORD = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95, 2**64  # odd, without pattern; all 64-bit numbers


def window_indices(seed: int, start_sample: int, count: int, windows: int) -> tuple[Indices, Indices]:
    """The epoch and the window (0 … windows - 1) of samples start_sample … start_sample + count - 1 of a run.

    Sample g is of epoch g // windows; in each epoch every window comes exactly once.
    """
    epoch, position = np.divmod(np.arange(start_sample, start_sample + count, dtype=np.uint64), windows)
    key = _key(seed, epoch)
    window = _permuted(position, windows, key)
    while (outside := window >= windows).any():  # a few of the square's cells are no window: walk on along the cycle
        window[outside] = _permuted(window[outside], windows, key[outside])
    return epoch.astype(np.int64), window.astype(np.int64)


def epoch_offset(seed: int, epoch: Indices, context_length: int) -> Indices:
    """Where the first window of each epoch starts, 0 … context_length - 1, so that epochs cut the text at other places."""
    return (_mixed(_key(seed, epoch.astype(np.uint64)) + OTHER_STRIDE) % context_length).astype(np.int64)


def _permuted(position: Words, size: int, key: Words) -> Words:
    """A keyed permutation of 0 … side² - 1, where side² is the smallest square >= size."""
    side = isqrt(size - 1) + 1
    high, low = np.divmod(position, side)
    for number in range(ROUNDS):
        scattered = _mixed(key + low * STRIDE + number * OTHER_STRIDE % WORD)
        high, low = low, (high + scattered % side) % side
    return high * side + low


def _key(seed: int, epoch: Words) -> Words:
    return _mixed(_mixed(np.full(epoch.shape, seed % WORD, np.uint64) + STRIDE) + epoch * OTHER_STRIDE)


def _mixed(word: Words) -> Words:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    return word ^ (word >> np.uint64(31))
