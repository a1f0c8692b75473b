"""Fuzzing of the device agent: random and mutated bytes for all that reads what others wrote.

    python tests/bench/fuzz_agent.py [--engine random|atheris] [--runs N] [--seconds S] [TARGET ...]

`random` mutates valid inputs and needs nothing but the agent. `atheris` (libFuzzer) also looks which lines of the
agent an input reaches, and goes on from there; it is no dependency of the project:

    python3.11 -m venv FOLDER && FOLDER/bin/pip install atheris && FOLDER/bin/python tests/bench/fuzz_agent.py ...

Each target runs in a process of its own, which atheris ends at the first crash or hang; inputs that crashed or hung
are kept. The exit status is 1 if any did, or if memory went on growing.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LONGEST_S = 10  # for one input
MOST_BYTES = 4096
MAY_GROW_MB = 50.0  # from a tenth of the run to its end; libFuzzer's own corpus lies in this memory, too
TOKENS = [
    *(b"%d" % number for number in (0, -1, 2**31, 2**32 - 1, 2**63, 10**40)),
    *b'{} [] "" null true NaN Infinity 1e999 -0.0 \\ud800 \\u0000 .. / ../ \xff \x00 [[[[ {"a":'.split(b" "),
    b"\x00\x00\x00\x02\x00\x00\x00\x00{}",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"[" * 1500,
]

VALUE = re.compile(rb'-?[0-9.]+|"[^"]*"')  # of JSON


def main() -> int:
    """Fuzz each target and print a table."""
    sys.path.insert(0, str(ROOT))
    options = _options()
    if options.child:
        engine = run_atheris if options.engine == "atheris" else run_random
        engine(options.targets[0], options, options.child)
        return 0
    print("| target | inputs | s | inputs/s | crashes | hangs | MB at 10 % | MB at the end | edges reached |")
    print("|---|---|---|---|---|---|---|---|---|")
    return max([fuzz(name, options) for name in options.targets or load("random").TARGETS])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs of a target")
    parser.add_argument("--seconds", type=float, default=300.0, help="of a target, if that is less")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def load(engine: str) -> Any:
    """Import the targets, and with them the agent, whose lines atheris is to see."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["device_agent"]):
            import fuzz_targets
    else:
        import fuzz_targets
    return fuzz_targets


# --- one target -----------------------------------------------------------------------------------------------


def fuzz(name: str, options: argparse.Namespace) -> int:
    """Fuzz one target in a process of its own and print its line; 1 if something is wrong with it."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=memory))
    given = [f"--{key}={getattr(options, key)}" for key in ("engine", "runs", "seconds", "seed")]
    began = time.monotonic()
    with (folder / "log").open("wb") as log:
        command = [sys.executable, __file__, *given, f"--child={folder}", name]
        status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    wrong = _tell(name, folder, status, time.monotonic() - began)
    if wrong:
        print(f"  see {folder}")
    else:
        shutil.rmtree(folder)
    return int(wrong)


def _tell(name: str, folder: Path, status: int, seconds: float) -> bool:
    """Print what was found and say whether something is wrong."""
    log = (folder / "log").read_text(errors="replace")
    samples = [tuple(map(int, line.split())) for line in (folder / "samples").read_text().splitlines()]
    count = max(samples[-1][0], *map(int, re.findall(r"Done (\d+) runs", log)), 0)
    early, late = (next(m for n, m in samples if n >= samples[-1][0] * part) / 1e6 for part in (0.1, 1.0))
    edges = re.findall(r"cov: (\d+)", log)[-1:] or ["unknown"]
    faults = _faults(folder, status)
    cells = [name, f"{count:,}", f"{seconds:.0f}", f"{count / seconds:,.0f}", *map(str, faults.values())]
    print("|", " | ".join([*cells, f"{early:.1f}", f"{late:.1f}", *edges]), "|", flush=True)
    return any(faults.values()) or late - early > MAY_GROW_MB


def _faults(folder: Path, status: int) -> dict[str, int]:
    if (folder / "faults.json").exists():
        found: dict[str, int] = json.loads((folder / "faults.json").read_bytes())
        return found
    hangs = len(list(folder.glob("timeout-*")))
    return {"crashes": int(status != 0 and not hangs), "hangs": hangs}


class Watched:
    """Feeds a target, and writes down twice a second how many inputs there were and how much memory there is."""

    def __init__(self, feed: Callable[[bytes], None], samples: Path) -> None:
        self._feed = feed
        self._samples = samples.open("a", encoding="ascii")
        self._next = 0.0
        self._count = 0

    def __call__(self, data: bytes) -> None:
        """Feed one input."""
        self._count += 1
        if time.monotonic() > self._next:
            self.sample()
        self._feed(data)

    def sample(self) -> None:
        """Write down one line; what is free and was only not given back does not count."""
        ctypes.CDLL(None).malloc_trim(0)
        self._next = time.monotonic() + 0.5
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self._samples.write(f"{self._count} {pages * os.sysconf('SC_PAGE_SIZE')}\n")
        self._samples.flush()


# --- engines --------------------------------------------------------------------------------------------------


class HangError(BaseException):
    """One input took too long."""


def run_random(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Mutate seeds; whatever crashes or hangs is counted."""
    chance = random.Random(options.seed)
    targets = load("random")
    seeds = targets.TARGETS[name].seeds
    watched = Watched(targets.make(name, folder), folder / "samples")
    faults = {"crashes": 0, "hangs": 0}
    signal.signal(signal.SIGALRM, _hang)
    until = time.monotonic() + options.seconds
    for _ in range(options.runs):
        data = mutate(chance, seeds)
        signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
        try:
            watched(data)
        except HangError:
            _keep(folder, faults, "hangs", data)
        except Exception:  # noqa: BLE001 - that is what is looked for
            _keep(folder, faults, "crashes", data)
        if time.monotonic() > until:
            break
    signal.setitimer(signal.ITIMER_REAL, 0)
    watched.sample()
    (folder / "faults.json").write_text(json.dumps(faults), encoding="ascii")


def mutate(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Return a seed, or parts of two, with a few changes; now and then random bytes."""
    data = bytearray(chance.choice(seeds))
    kind = chance.random()
    if kind < 0.02:
        return chance.randbytes(chance.randrange(200))
    if kind < 0.12:
        other = chance.choice(seeds)
        data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other)) :]
    for _ in range(chance.choice((0, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        length = chance.choice((1, 1, 2, 8, 50))
        kind = chance.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 2:
            data[at : at + length] = chance.choice(TOKENS)
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4 and (value := VALUE.search(data, at)):
            data[value.start() : value.end()] = chance.choice(TOKENS)
        else:
            data[at:at] = data[at : at + length] * chance.choice((1, 2, 40))
    return bytes(data[:MOST_BYTES])


def _keep(folder: Path, faults: dict[str, int], what: str, data: bytes) -> None:
    """Count a fault; keep the first few with their tracebacks."""
    faults[what] += 1
    if faults[what] <= 5:
        (folder / f"{what}-{faults[what]}").write_bytes(data)
        (folder / f"{what}-{faults[what]}.txt").write_text(traceback.format_exc(), encoding="utf-8")


def _hang(*_: object) -> None:
    raise HangError


def run_atheris(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Have libFuzzer feed the target; does not return."""
    targets = load("atheris")
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(targets.TARGETS[name].seeds):
        (corpus / str(number)).write_bytes(seed)
    words = ['"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in TOKENS]
    (folder / "words").write_text("".join(words), encoding="ascii")
    flags = {
        "runs": options.runs,
        "max_total_time": int(options.seconds),
        "timeout": LONGEST_S,
        "max_len": MOST_BYTES,
        "seed": options.seed,
        "dict": folder / "words",
        "artifact_prefix": f"{folder}/",
    }
    arguments = [sys.argv[0], *(f"-{flag}={value}" for flag, value in flags.items()), str(corpus)]
    atheris.Setup(arguments, Watched(targets.make(name, folder), folder / "samples"))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
