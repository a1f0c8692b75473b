"""Keeps a line of debugging off the terminal that HiGHS 1.12 (in SciPy 1.17) prints whatever its options say.

github.com/ERGO-Code/HiGHS, issue 2783. It comes from C code, past `sys.stdout`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

STRAY = b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();"
STDOUT = 1
_one_at_a_time = Lock()  # two that swap the same descriptor would put back each other's


@contextmanager
def tidied() -> Iterator[None]:
    """Hold standard output back while the solver works; then let all of it through but that line."""
    with _one_at_a_time:
        try:
            real = os.dup(STDOUT)
        except OSError:  # a process without standard output has nothing to keep tidy
            yield
            return
        with tempfile.TemporaryFile() as held:
            _flush()
            os.dup2(held.fileno(), STDOUT)
            try:
                yield
            finally:
                _flush()
                os.dup2(real, STDOUT)
                os.close(real)
                held.seek(0)
                kept = b"".join(line for line in held if line.strip() != STRAY)
                while kept:
                    kept = kept[os.write(STDOUT, kept) :]


def _flush() -> None:
    """Write out what Python and the C library hold in their buffers."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
