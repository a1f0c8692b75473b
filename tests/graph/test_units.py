from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.graph.rules.reshaping import blocks
from pipeline.graph.units import FIXED, Ids, Units


def fresh(units: Units, count: int) -> Ids:
    ids = units.fresh(count)
    assert ids is not None
    return ids


def test_single_entry_carries_no_unit() -> None:
    assert Units().fresh(1) is None


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_coupling_gives_connected_components(pairs: list[tuple[int, int]]) -> None:
    units = Units()
    ids = fresh(units, 20)
    labels = list(range(20))
    for a, b in pairs:
        units.couple(ids[[a]], ids[[b]], "")
        labels = [labels[a] if label == labels[b] else label for label in labels]
    roots = units.roots(ids).tolist()
    assert all((roots[i] == roots[j]) == (labels[i] == labels[j]) for i in range(20) for j in range(20))


def test_coupling_with_a_fixed_entry_freezes_only_that_unit() -> None:
    units = Units()
    ids = fresh(units, 4)
    units.couple(ids, np.array([ids[0], FIXED, ids[2], ids[3]]), "meets a fixed channel")
    assert units.reasons() == {1: "meets a fixed channel"}


def test_frozen_unit_freezes_what_is_coupled_later_and_keeps_the_first_reason() -> None:
    units = Units()
    first, second = fresh(units, 2), fresh(units, 2)
    units.freeze(second, "first")
    units.freeze(first, "second")
    units.couple(first, second, "")
    assert units.reasons() == {0: "first", 1: "first"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((2, 8, 4, 4), (2, 128), [((2,), (2,)), ((8, 4, 4), (128,))]),
        ((2, 8, 16), (2, 8, 4, 4), [((2,), (2,)), ((8,), (8,)), ((16,), (4, 4))]),
        ((1, 8, 1, 1), (1, 8), [((1,), (1,)), ((8,), (8,)), ((1,), ()), ((1,), ())]),
        ((6, 4), (8, 3), [((6, 4), (8, 3))]),
        ((4,), (1, 4), [((4,), (1, 4))]),
    ],
)
def test_shapes_are_cut_into_blocks_of_equal_size(
    before: tuple[int, ...], after: tuple[int, ...], expected: list[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    assert [(before[a], after[b]) for a, b in blocks(before, after)] == expected


@given(st.permutations([2, 3, 4, 1, 5]), st.integers(0, 3))
def test_blocks_cover_both_shapes_once(sizes: list[int], at: int) -> None:
    before = tuple(sizes)
    merged = (*before[:at], before[at] * before[at + 1], *before[at + 2 :])
    pairs = list(blocks(before, merged))
    assert sum((before[a] for a, _ in pairs), ()) == before
    assert sum((merged[b] for _, b in pairs), ()) == merged
    assert all(np.prod(before[a]) == np.prod(merged[b]) for a, b in pairs)


def together(units: Units, *labels: Ids | None) -> list[list[frozenset[int]]]:
    """The atoms of every entry, to compare what belongs together."""
    return [
        [frozenset(row) - {FIXED} for row in units.expand(ids).tolist()] for ids in labels if ids is not None
    ]


def test_splitting_and_joining_gives_the_same_units_back() -> None:
    units = Units()
    ids = fresh(units, 24)
    parts = units.split(ids, (2, 3, 4), "")
    joined = units.join(parts, (2, 3, 4))
    assert together(units, joined) == together(units, ids)
    assert all(len(entry) == 3 for entry in together(units, ids)[0])


def test_parts_split_again_another_way_stay_a_grid() -> None:
    units = Units()
    ids = fresh(units, 16)
    units.split(ids, (2, 8), "")
    rows, columns = units.split(ids, (4, 4), "")
    (entries,) = together(units, ids)
    assert rows is not None
    assert columns is not None
    assert len({frozenset(each) for each in entries}) == 16
    assert together(units, units.join([rows, columns], (4, 4))) == [entries]


def test_a_row_of_a_grid_goes_as_a_whole() -> None:
    units = Units()
    ids = fresh(units, 6)
    rows, columns = units.split(ids, (2, 3), "")
    assert rows is not None
    assert columns is not None
    gone = int(units.expand(rows)[1, 0])
    assert [gone in entry for entry in together(units, ids)[0]] == [False] * 3 + [True] * 3


def test_plain_units_that_meet_a_grid_become_one() -> None:
    units = Units()
    rows, columns, plain = fresh(units, 2), fresh(units, 3), fresh(units, 6)
    units.couple(plain, units.join([rows, columns], (2, 3)), "")  # type: ignore[arg-type]
    assert together(units, plain) == together(units, units.join([rows, columns], (2, 3)))


def test_two_grids_are_coupled_axis_by_axis() -> None:
    units = Units()
    first, second = fresh(units, 6), fresh(units, 6)
    ours, theirs = units.split(first, (2, 3), ""), units.split(second, (2, 3), "")
    units.couple(first, second, "")
    assert together(units, *ours) == together(units, *theirs)
    assert units.reasons() == {}


def test_an_axis_that_the_other_side_lacks_is_frozen() -> None:
    units = Units()
    rows, columns = fresh(units, 2), fresh(units, 3)
    grid = units.join([rows, columns], (2, 3))
    assert grid is not None
    units.couple(grid, np.repeat(rows, 3), "has no columns")
    assert set(units.reasons()) == set(columns.tolist())


def test_crossed_grids_never_tear_an_entry_apart() -> None:
    """Channels split 2 by 3 and, elsewhere, 3 by 2: whatever goes, both layouts must stay full grids."""
    units = Units()
    ids = fresh(units, 6)
    units.split(ids, (2, 3), "")
    parts = units.split(ids, (3, 2), "")
    assert together(units, units.join(parts, (3, 2))) == together(units, ids)
    frozen = set(units.reasons())
    atoms = {atom for entry in together(units, ids)[0] for atom in entry} - frozen
    for atom in atoms:
        left = np.array([atom not in entry for entry in together(units, ids)[0]])
        for shape in ((2, 3), (3, 2)):
            grid = left.reshape(shape)
            assert (grid == grid.any(1, keepdims=True) & grid.any(0, keepdims=True)).all()
