"""A training that is killed and called again ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from digits_training import same, train_in_child
from safetensors.torch import load_file

# Processes of their own that begin as copies of one that has torch imported already.
PROCESSES = multiprocessing.get_context("forkserver")


def start(checkpoint: Path, weights: Path) -> tuple[BaseProcess, Connection]:
    PROCESSES.set_forkserver_preload(["digits_training"])
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=train_in_child, args=(checkpoint, weights, there))
    process.start()
    there.close()
    return process, here


def kill_after(checkpoint: Path, weights: Path, reports: int, wait_s: float) -> bool:
    """Kill a training some time after a number of reports; tell whether it was still at work."""
    process, reported = start(checkpoint, weights)
    for _ in range(reports):
        reported.recv()
    time.sleep(wait_s)
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):  # it may have come to its end meanwhile
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def until_closed(reported: Connection) -> Iterator[int]:
    with suppress(EOFError):
        while True:
            yield reported.recv()


def finish(checkpoint: Path, weights: Path) -> list[int]:
    """Let a training end by itself; return its reports."""
    process, reported = start(checkpoint, weights)
    places = list(until_closed(reported))
    process.join()
    assert process.exitcode == 0
    return places


def test_a_training_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed = finish(tmp_path / "calm.checkpoint", tmp_path / "calm")
    again, dice = (tmp_path / "killed.checkpoint", tmp_path / "killed"), random.Random(20)
    kills = [kill_after(*again, dice.randint(2, 4), dice.uniform(0, 0.05)) for _ in range(4)]
    rest = finish(*again)

    assert any(kills)  # one that was quicker than the kill proves nothing, and does no harm
    assert rest == undisturbed[len(undisturbed) - len(rest) :]
    assert len(rest) < len(undisturbed), "it began anew instead of going on from the checkpoint"
    assert same(load_file(tmp_path / "killed"), load_file(tmp_path / "calm"))
