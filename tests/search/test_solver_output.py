"""A line that the solver prints whatever it is told does not reach the user; everything else does, in order."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.search.solver_output import STRAY, tidied


def test_that_line_is_left_out_and_all_others_come_through(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with tidied():
        os.write(1, b"one\n" + STRAY + b"\n")
        print("two")
        os.write(1, STRAY + b"\nthree")
    print("after")
    said = capfd.readouterr().out
    assert said.splitlines()[0] == "before"
    assert "tmpSolver" not in said
    assert [word for word in ("one", "two", "three", "after") if word in said] == [
        "one",
        "two",
        "three",
        "after",
    ]
    assert said.rstrip().endswith("after")


def test_what_was_said_before_an_error_comes_through(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), tidied():
        os.write(1, b"said\n") // 0
    assert capfd.readouterr().out == "said\n"


def test_the_c_librarys_own_buffer_is_held_back_too() -> None:
    """As the solver prints: through C's stdio, which writes when it likes."""
    code = (
        "import ctypes; from pipeline.search.solver_output import STRAY, tidied\n"
        "with tidied(): ctypes.CDLL(None).puts(STRAY)\n"
        "print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


def test_a_process_without_standard_output_is_served_all_the_same() -> None:
    code = (
        "import os; os.close(1); from pipeline.search.solver_output import tidied\n"
        "with tidied(): os.write(2, b'worked')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "worked"
