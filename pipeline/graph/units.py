"""Unit ids: which entries of which dimensions must be kept or dropped together.

Every dimension of a traced tensor that can be slimmed carries one id per index. Coupling two ids (a
union-find) says that they are the same unit. `FIXED` marks an entry that belongs to no unit and always
stays.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
FIXED = -1


class Units:
    """All unit ids of one model, coupled by a union-find, with the reasons for which some are frozen."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._frozen: list[tuple[Ids, str]] = []

    def fresh(self, count: int) -> Ids | None:
        """Return `count` new ids, or `None` for a single entry: a dimension can never be emptied."""
        if count < 2:
            return None
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def couple(self, first: Ids, second: Ids, reason: str) -> None:
        """Make two equally shaped arrays the same units, entry by entry.

        Where only one of the two entries is a unit, that unit is frozen for `reason`.
        """
        one_sided = (first == FIXED) != (second == FIXED)
        if one_sided.any():
            self.freeze(np.maximum(first, second)[one_sided], reason)
        both = (first != FIXED) & (second != FIXED)
        for a, b in zip(first[both].tolist(), second[both].tolist(), strict=True):
            self._unite(a, b)

    def freeze(self, ids: Ids, reason: str) -> None:
        """Say that these units must all be kept; the first reason given for a unit is the one reported."""
        self._frozen.append((ids, reason))

    def roots(self, ids: Ids) -> Ids:
        """Replace every id by the one that stands for its unit."""
        found = [self._root(unit) if unit != FIXED else FIXED for unit in ids.ravel().tolist()]
        return np.asarray(found, dtype=np.int64).reshape(ids.shape)

    def reasons(self) -> dict[int, str]:
        """Return the reason of every frozen unit, by its root."""
        found: dict[int, str] = {}
        for ids, reason in self._frozen:
            for root in np.unique(self.roots(ids)).tolist():
                if root != FIXED:
                    found.setdefault(root, reason)
        return found

    def _root(self, unit: int) -> int:
        parents = self._parents
        while parents[unit] != unit:
            parents[unit] = parents[parents[unit]]
            unit = parents[unit]
        return unit

    def _unite(self, a: int, b: int) -> None:
        low, high = sorted((self._root(a), self._root(b)))
        self._parents[high] = low
