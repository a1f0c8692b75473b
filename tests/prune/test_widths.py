from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ModelError
from pipeline.prune import round_width


@given(
    st.floats(0.01, 300), st.integers(1, 256), st.integers(1, 64), st.sampled_from(["nearest", "up", "down"])
)
def test_a_multiple_or_the_full_width_and_never_zero(
    wanted: float, full: int, to: int, rounding: str
) -> None:
    width = round_width(min(wanted, full), full, to, rounding)  # type: ignore[arg-type]
    assert 1 <= width <= full
    assert width % to == 0 or width == full


@given(st.floats(0.01, 64), st.sets(st.integers(1, 64), min_size=1))
def test_of_a_set_the_nearest_the_next_or_the_one_before(wanted: float, allowed: set[int]) -> None:
    known = allowed | {64}
    nearest, up, down = (round_width(wanted, 64, allowed, rounding) for rounding in ("nearest", "up", "down"))
    assert {nearest, up, down} <= known
    assert abs(nearest - wanted) == min(abs(width - wanted) for width in known)
    assert up == min(width for width in known if width >= wanted)
    below = [width for width in known if width <= wanted]
    assert down == (max(below) if below else min(known))


@pytest.mark.parametrize("to", [0, -4, (), (0, 99)])
def test_widths_that_cannot_be_are_refused(to: object) -> None:
    with pytest.raises(ModelError):
        round_width(8, 16, to)  # type: ignore[arg-type]
