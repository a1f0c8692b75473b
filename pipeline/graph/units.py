"""Unit labels: which entries of which dimensions must be kept or dropped together.

Every dimension of a traced tensor that can be slimmed carries one label per index. A label is an atom or a
product of atoms: once a dimension was split into a grid (heads by head width, say), an entry belongs to one
unit along every axis, and stays only if all of them do. Coupling (a union-find over the atoms) says that two
labels are the same. `FIXED` marks an entry that belongs to no unit and always stays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
FIXED = -1


class Units:
    """All labels of one model: how they are coupled and multiplied, and the reasons why some are frozen."""

    def __init__(self) -> None:
        # The last slot of both arrays is that of FIXED, so that -1 may be looked up like any label.
        self._parents = np.full(1025, FIXED, dtype=np.int64)
        self._factors = np.full((1025, 2), FIXED, dtype=np.int64)
        self._count = 0
        self._frozen: list[tuple[Ids, str]] = []

    def __len__(self) -> int:
        return self._count

    # --- what rules use ---

    def fresh(self, count: int) -> Ids | None:
        """Return `count` new units, or `None` for a single entry: a dimension can never be emptied."""
        return self._new(count) if count > 1 else None

    def couple(self, first: Ids, second: Ids, reason: str) -> None:
        """Make two dimensions of equal size the same units, entry by entry.

        Where only one of two entries is a unit, or where it has a factor that the other lacks, that is frozen
        for `reason`.
        """
        first, second = self.roots(first), self.roots(second)
        differing = first != second
        if not differing.any():
            return
        first, second = first[differing], second[differing]
        if self._all_atoms(first) and self._all_atoms(second):
            self._unite(first, second)
            return
        left, right = self.expand(first), self.expand(second)
        sizes = np.stack([(left != FIXED).sum(1), (right != FIXED).sum(1)], 1)
        for p, q in np.unique(sizes, axis=0).tolist():
            rows = (sizes == (p, q)).all(1)
            self._match(left[rows, :p], right[rows, :q], reason)

    def freeze(self, ids: Ids, reason: str) -> None:
        """Say that these entries must all stay; the first reason given for a unit is the one reported."""
        self._frozen.append((ids, reason))

    def split(self, ids: Ids, shape: Sequence[int], reason: str) -> list[Ids | None]:
        """Return the units along every axis of a dimension that is laid out as a grid, row by row.

        Entries that cannot be told apart along the axes alone are coupled until they can, or frozen.
        """
        axes: list[Ids | None] = []
        rest: Ids | None = ids
        for position, size in enumerate(shape[:-1]):
            if rest is None:
                axes.append(None)
                continue
            axis, rest = self._split_in_two(rest, size, math.prod(shape[position + 1 :]), reason)
            axes.append(axis)
        return [*axes, rest] if shape else []

    def join(self, parts: Sequence[Ids | None], shape: Sequence[int]) -> Ids | None:
        """Return the labels of a grid laid out as one dimension, row by row: the inverse of `split`."""
        joined: Ids | None = None
        for axis, ids in enumerate(parts):
            if ids is not None:
                spread = [1] * len(shape)
                spread[axis] = shape[axis]
                whole: Ids = np.broadcast_to(ids.reshape(spread), tuple(shape)).reshape(-1)
                joined = whole if joined is None else self._product(joined, whole)
        return joined

    # --- what is asked once all is propagated ---

    def roots(self, ids: Ids) -> Ids:
        """Replace every label by the one that stands for all that are coupled to it."""
        found = self._parents[ids]
        while True:
            above = self._parents[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parents[ids] = found
        return found

    def expand(self, ids: Ids) -> Ids:
        """Return every entry's atoms, shape (entries, most atoms of one), filled up with `FIXED`."""
        atoms = self.roots(ids)[:, None]
        while True:
            pairs = self._factors[atoms]
            products = pairs[..., 0] != FIXED
            if not products.any():
                break
            pairs[..., 0][~products] = atoms[~products]
            atoms = self.roots(pairs.reshape(-1)).reshape(len(ids), -1)
            atoms = atoms[:, (atoms != FIXED).any(0)]
        if atoms.shape[1] > 1:
            atoms = np.take_along_axis(atoms, np.argsort(atoms == FIXED, axis=1, kind="stable"), 1)
            atoms = atoms[:, : max(1, int((atoms != FIXED).sum(1).max(initial=0)))]
        return atoms

    def atoms(self) -> Ids:
        """Return the atoms of every label there is; shape (labels, most atoms of one)."""
        return self.expand(np.arange(self._count))

    def reasons(self) -> dict[int, str]:
        """Return the reason of every frozen atom."""
        found: dict[int, str] = {}
        for ids, reason in self._frozen:
            for atom in np.unique(self.expand(ids)).tolist():
                if atom != FIXED:
                    found.setdefault(atom, reason)
        return found

    # --- inside ---

    def _new(self, count: int) -> Ids:
        start, end = self._count, self._count + count
        if end >= len(self._parents):
            more = max(len(self._parents), count) + 1
            self._parents = np.concatenate([self._parents, np.full(more, FIXED)])
            self._factors = np.concatenate([self._factors, np.full((more, 2), FIXED)])
        ids = np.arange(start, end, dtype=np.int64)
        self._parents[start:end] = ids
        self._count = end
        return ids

    def _all_atoms(self, roots: Ids) -> bool:
        return bool((roots != FIXED).all() and (self._factors[roots, 0] == FIXED).all())

    def _unite(self, first: Ids, second: Ids) -> None:
        """Couple atoms, both given by their roots."""
        low, high = np.minimum(first, second), np.maximum(first, second)
        pairs = np.unique(np.stack([low, high], 1)[low != high], axis=0)
        low, high = pairs[:, 0], pairs[:, 1]
        if len(np.unique(high)) == len(high) and not np.isin(low, high).any():
            self._parents[high] = low
            return
        for a, b in pairs.tolist():
            root, other = self._root(a), self._root(b)
            self._parents[max(root, other)] = min(root, other)

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            label = int(self._parents[label])
        return label

    def _product(self, first: Ids, second: Ids) -> Ids:
        """Return labels of entries that stay only if both given ones do."""
        both = (first != FIXED) & (second != FIXED)
        labels = np.maximum(first, second)
        made = self._new(int(both.sum()))
        self._factors[made] = np.stack([first[both], second[both]], 1)
        labels[both] = made
        return labels

    def _define(self, atoms: Ids, factors: Sequence[Ids]) -> None:
        """Say that each atom is the product of others; an atom may be named more than once."""
        _, first = np.unique(atoms, return_index=True)
        product = factors[-1][first]
        for factor in reversed(factors[1:-1]):
            product = self._product(factor[first], product)
        self._factors[atoms[first]] = np.stack([factors[0][first], product], 1)

    def _match(self, left: Ids, right: Ids, reason: str) -> None:
        """Couple entries by their atoms: columns that tell the same entries apart are the same units."""
        ours, theirs = list(left.T), list(right.T)
        for same in (np.array_equal, _same_pattern):
            for column in list(ours):
                partner = next((k for k, other in enumerate(theirs) if same(column, other)), None)
                if partner is not None:
                    ours = [each for each in ours if each is not column]
                    self._unite_resolved(column, theirs.pop(partner), reason)
        if len(ours) == len(theirs) == 1:
            self._unite_resolved(ours[0], theirs[0], reason)
            return
        for one, several in ((ours, theirs), (theirs, ours)):
            if len(one) == 1 and len(several) > 1 and self._can_define(one[0], several):
                self._define(one[0], several)
                return
        for column in (*ours, *theirs):
            self.freeze(column, reason)

    def _unite_resolved(self, first: Ids, second: Ids, reason: str) -> None:
        """Couple columns of atoms some of which may have been defined since they were looked up."""
        first, second = self.roots(first), self.roots(second)
        if self._all_atoms(first) and self._all_atoms(second):
            self._unite(first, second)
        else:
            self.couple(first, second, reason)

    def _can_define(self, atoms: Ids, factors: Sequence[Ids]) -> bool:
        if not self._all_atoms(self.roots(atoms)) or np.isin(atoms, np.stack(factors)).any():
            return False
        _, joint = np.unique(np.stack(factors, 1), axis=0, return_inverse=True)
        return _same_pattern(atoms, joint.reshape(-1))

    def _split_in_two(self, ids: Ids, rows: int, columns: int, reason: str) -> tuple[Ids | None, Ids | None]:
        if rows == 1 or columns == 1:
            return (None, ids) if rows == 1 else (ids, None)
        atoms = self.expand(ids)
        if (atoms[:, 0] == FIXED).any():
            self.freeze(ids, reason)
            return None, None
        along_rows: list[Ids] = []
        along_columns: list[Ids] = []
        for factor in atoms.T:
            self._place(factor.reshape(rows, columns), along_rows, along_columns, reason)
        return self._product_of(along_rows), self._product_of(along_columns)

    def _product_of(self, labels: Sequence[Ids]) -> Ids | None:
        return functools.reduce(self._product, labels) if labels else None

    def _place(self, grid: Ids, along_rows: list[Ids], along_columns: list[Ids], reason: str) -> None:
        """Find out along which axis of a grid an atom changes; split it where that is along both."""
        by_row, by_column = (grid == grid[:, :1]).all(), (grid == grid[:1]).all()
        if by_row and by_column:
            self.freeze(grid[0, :1], reason)
        elif by_row:
            along_rows.append(grid[:, 0].copy())
        elif by_column:
            along_columns.append(grid[0].copy())
        elif (grid == FIXED).any():
            self.freeze(grid.reshape(-1), reason)
        else:
            kinds, row_of = np.unique(grid, axis=0, return_inverse=True)
            kinds, column_of = np.unique(kinds, axis=1, return_inverse=True)
            if len(np.unique(kinds)) == kinds.size and min(kinds.shape) > 1:
                rows, columns = self._new(kinds.shape[0]), self._new(kinds.shape[1])
                self._factors[kinds] = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
                along_rows.append(rows[row_of.reshape(-1)])
                along_columns.append(columns[column_of.reshape(-1)])
            else:
                for row in grid[1:]:
                    self.couple(grid[0], row, reason)
                along_columns.append(grid[0].copy())


def _same_pattern(first: Ids, second: Ids) -> bool:
    """Tell whether two columns tell the same entries apart."""
    pairs = len(np.unique(np.stack([first, second], 1), axis=0))
    return pairs == len(np.unique(first)) == len(np.unique(second))
