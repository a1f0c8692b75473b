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
