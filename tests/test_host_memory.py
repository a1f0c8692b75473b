import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from pipeline.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    for _ in range(20):
        torch.ones(16_000_000)  # 64 MB, 15,625 pages
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_a_large_block_is_not_asked_of_the_kernel_anew() -> None:
    kept, plain = faults("keep"), faults("plain")
    assert plain > 100, "pages of 4 kB or of 2 MB"
    assert kept < plain / 10
