"""Near duplicates among perceptual hashes."""

from __future__ import annotations

import itertools

import numpy as np

BITS = 64


def near_duplicates(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Of which earlier hash each hash is a near duplicate. A hash that is one makes no duplicates of its own.

    The result is exact: two hashes that differ in at most d bits agree in one of d + 1 bands of bits, so each kept
    hash is compared with those alone that share a band with it.

    Args:
        hashes: uint64 [N], in the order in which the first one stays.
        distance: Highest number of bits in which near duplicates differ.

    Returns:
        int64 [N]: the index of the kept hash, or -1 for those that are kept.
    """
    hashes = hashes.astype(np.uint64)
    kept_by = np.full(len(hashes), -1, np.int64)
    bands = [_Band(hashes, edge, following) for edge, following in _edges(distance + 1)]
    for index in range(len(hashes)):
        if kept_by[index] >= 0:
            continue
        for band in bands:
            later = band.later(index)
            if len(later):
                near = later[_popcount(hashes[later] ^ hashes[index]) <= distance]
                kept_by[near[kept_by[near] < 0]] = index
    return kept_by


def _edges(bands: int) -> list[tuple[int, int]]:
    edges = [BITS * band // bands for band in range(bands + 1)]
    return list(itertools.pairwise(edges))


class _Band:
    """Hashes grouped by some of their bits, each group in the order of the hashes."""

    def __init__(self, hashes: np.ndarray, edge: int, following: int) -> None:
        values = (hashes >> np.uint64(edge)) & np.uint64((1 << (following - edge)) - 1)
        self.order = np.argsort(values, kind="stable")
        self.place = np.empty_like(self.order)
        self.place[self.order] = np.arange(len(hashes))
        grouped = values[self.order]
        self.end = np.searchsorted(grouped, grouped, side="right")

    def later(self, index: int) -> np.ndarray:
        """The indices behind this one in its group."""
        place = self.place[index]
        return self.order[place + 1 : self.end[place]]


ONES = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def _popcount(values: np.ndarray) -> np.ndarray:
    """Number of ones in each uint64."""
    return ONES[values.view(np.uint16).reshape(-1, 4)].sum(axis=1)
