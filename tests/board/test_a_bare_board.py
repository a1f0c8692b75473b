"""The emulated board itself: what the other tests here rely on."""

from __future__ import annotations

import pytest
from emulated_board import Board


@pytest.mark.board_quick
def test_it_is_a_bare_pi_4(board: Board) -> None:
    assert "Raspberry Pi 4 Model B" in board.ssh("cat /proc/device-tree/model")
    assert board.ssh("uname -m; nproc") == "aarch64\n1"
    assert board.ssh("sudo -n id -u; python3 --version", user="pi").startswith("0\nPython 3.11.")
    assert "No module named" in board.ssh("python3 -c 'import numpy' 2>&1", check=False)


@pytest.mark.board_quick
def test_its_sensors_say_what_they_are_told(board: Board) -> None:
    hwmon = board.ssh("dirname $(grep -lx ina226 /sys/class/hwmon/*/name)")
    zone = board.ssh("dirname $(grep -lx cpu-thermal /sys/class/thermal/*/type)")
    board.set_power(4200)
    board.set_temperature(61.5)
    assert board.ssh(f"cat {hwmon}/power1_input {zone}/temp") == "4200000\n61500"
    board.set_power(3000)
    board.set_temperature(45)
    assert board.ssh(f"cat {hwmon}/power1_input {zone}/temp") == "3000000\n45000"
    assert board.ssh("cat /sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq") == "1500000"


def test_a_power_cut_leaves_what_was_flushed_and_takes_what_was_not(board: Board) -> None:
    board.ssh("mkdir -p /var/tmp/cut && sync")
    flushed = board.ssh(
        "cd /var/tmp/cut && head -c 3000000 /dev/urandom > flushed && sync flushed . && sha256sum flushed"
    ).split()[0]
    board.ssh("cd /var/tmp/cut && head -c 3000000 /dev/urandom > lost && mv lost not-flushed")
    board.power_cut()
    board.boot()
    assert board.ssh("sha256sum /var/tmp/cut/flushed").split()[0] == flushed
    lost = board.ssh("cat /var/tmp/cut/not-flushed /var/tmp/cut/lost 2>/dev/null | wc -c")
    assert lost == "0", "nothing is lost at a power cut: these tests would prove nothing"
    assert "recover" in board.ssh("dmesg | grep -i ext4")
    board.ssh("rm -r /var/tmp/cut")
