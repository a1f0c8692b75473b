"""A user's home with a small real model, a task and a profile, in which `pipeline deploy` runs as that user would."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.data import digits

TASK = """
name = "small-digits"
seed = 3

[model]
factory = "small_net.py:build"
input_shape = [1, 8, 8]

[data]
source = "npz:digits.npz"
validation_share = 0.25

[preprocess]
scale = 0.0625
mean = [0.5]
std = [0.5]

[baseline]
epochs = BASELINE_EPOCHS
batch_size = 32
learning_rate = 0.1

[recover]
epochs = 1
batch_size = 32
learning_rate = 0.05
distill_weight = 0.5
"""

NET = '''
"""A residual network that is large enough to be timed and small enough to be trained in seconds."""

from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, padding=1)
        self.one = Block(64)
        self.two = Block(64)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.stem(x)))
        return self.head(self.pool(x).flatten(1))


def build() -> nn.Module:
    return Net()
'''

PROFILE = """
[board]
model = "the machine that runs the tests"
power_sensor = "none"

[runtime]
name = "onnxruntime"
threads = 1

[budgets]
latency = "60%"

[accuracy]
max_drop = 10.0

[measuring]
min_duration_s = 0.5
warmup_max_s = 1.0
cooldown_s = 0.2
"""


@dataclass(frozen=True)
class Home:
    """A user's home of its own: state, cache and configuration; and the task and profile to use in it."""

    folder: Path

    @property
    def task(self) -> Path:
        return self.folder / "task.toml"

    @property
    def profile(self) -> Path:
        return self.folder / "quick.toml"

    @property
    def agent_state(self) -> Path:
        return self.folder / "state" / "pipeline" / "devices" / "local"

    @property
    def environment(self) -> dict[str, str]:
        names = {"XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config"}
        places = {name: str(self.folder / part) for name, part in names.items()}
        return {**os.environ, **places, "HOME": str(self.folder), "COLUMNS": "100"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipeline", *arguments]

    def deploy_arguments(self, *arguments: str) -> tuple[str, ...]:
        return (
            "deploy",
            "--device",
            "local",
            "--task",
            str(self.task),
            "--profile",
            str(self.profile),
            *arguments,
        )

    def deploy(self, *arguments: str) -> list[str]:
        return self.command(*self.deploy_arguments(*arguments))

    def start_deploy(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `pipeline deploy` of the small task, its output line by line, as at a terminal."""
        return self._start(self.deploy(*arguments))

    def start_resumed(self) -> subprocess.Popen[str]:
        """Start what goes on with the latest run, as `start_deploy` does."""
        return self._start(self.command("deploy", "--resume", "latest"))

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env={**self.environment, "PYTHONUNBUFFERED": "1"},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_ctrl_c,
            start_new_session=True,  # so that it can be killed with all that it started
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `pipeline` with these arguments to its end."""
        return self._run(self.command(*arguments))

    def run_deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `pipeline deploy` of the small task to its end."""
        return self._run(self.deploy(*arguments))

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )


def _heed_ctrl_c() -> None:
    """For a child process: take SIGINT as at a terminal, also where a background shell has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def make_home(folder: Path, baseline_epochs: int = 5) -> Home:
    folder.mkdir(parents=True, exist_ok=True)
    home = Home(folder)
    home.task.write_text(TASK.replace("BASELINE_EPOCHS", str(baseline_epochs)))
    home.profile.write_text(PROFILE)
    (folder / "small_net.py").write_text(NET)
    (folder / "digits.npz").write_bytes(_some_digits())
    return home


@cache
def _some_digits() -> bytes:
    """Return an archive with 800 of the shipped digits to learn and 300 to be tested with."""
    train, test = digits.load()
    arrays = {
        "x_train": train.inputs[:800].numpy(),
        "y_train": train.targets[:800].numpy(),
        "x_test": test.inputs[:300].numpy(),
        "y_test": test.targets[:300].numpy(),
    }
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    return archive.getvalue()
