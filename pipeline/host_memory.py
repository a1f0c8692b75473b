"""Memory that PyTorch gives back stays with this process.

glibc maps a large block anew for every tensor and returns it at once, so the kernel zeroes the same pages for every
layer of every step. A MobileNetV2's training step took 1.7 times longer so (docs/benchmarks.md, "Memory of the host").
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # <malloc.h>
_PAD_BYTES = 1 << 26


def keep_freed_memory() -> None:
    """Have the allocator reuse large blocks; does nothing where it is not glibc's.

    The process keeps its peak until it ends.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - others have a mallopt of other parameters
        mallopt = libc.mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)  # never
    mallopt(_TOP_PAD, _PAD_BYTES)
