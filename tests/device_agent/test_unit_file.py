import re
import shutil
import subprocess
from pathlib import Path

import pytest

import device_agent

UNIT = Path(device_agent.__file__).parent / "device-agent.service"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on PATH"
)


@needs_systemd
def test_the_unit_is_hardened(tmp_path):
    copy = shutil.copy(UNIT, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", copy],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for device-agent.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 2.0


@needs_systemd
def test_the_unit_is_well_formed(tmp_path):
    copy = shutil.copy(UNIT, tmp_path)
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert "device-agent.service" not in done.stderr, done.stderr


def test_the_unit_starts_what_the_command_line_knows():
    from device_agent.cli import _parser

    command = re.search(r"^ExecStart=/usr/bin/python3 -m device_agent (.+)$", UNIT.read_text(), re.MULTILINE)[
        1
    ]
    launched = _parser().parse_args(command.split())
    assert launched.command == "launch"
    assert str(launched.keys) == "/etc/device-agent/trusted_keys.json"
