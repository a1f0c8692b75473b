"""How much of the cores' time others took: with made-up accounts, and with a real process beside."""

import os
import subprocess
import sys
import time

import pytest

from device_agent.sensors.disturbance import Disturbance

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SPAN_S = 0.6


def stat(root, cores):
    """Write /proc/stat; a core is (user, system, idle, softirq, steal) in seconds."""
    lines = ["cpu  1 2 3 4 5 6 7 8 0 0"]
    for core, (user, system, idle, softirq, steal) in cores.items():
        ticks = [round(value / TICK_S) for value in (user, 0, system, idle, 0, 0, softirq, steal, user, 0)]
        lines.append(f"cpu{core} {' '.join(map(str, ticks))}")
    (root / "stat").write_text("\n".join([*lines, "intr 1 2 3", ""]))


def share(root, cores, before, after):
    stat(root, before)
    watch = Disturbance(cores, root)
    time.sleep(SPAN_S)
    stat(root, after)
    return watch.others_share(), watch.disturbed()


def test_all_that_a_core_did_beside_this_process_is_the_others(tmp_path):
    found, disturbed = share(tmp_path, {0}, {0: (1, 1, 1, 1, 1)}, {0: (1.1, 1.1, 9, 1.1, 1)})
    assert found == pytest.approx(0.3 / SPAN_S, abs=0.15)
    assert disturbed


def test_idle_time_and_other_cores_do_not_count(tmp_path):
    before = {0: (1, 1, 1, 1, 1), 1: (1, 1, 1, 1, 1)}
    found, disturbed = share(tmp_path, {0}, before, {0: (1, 1, 9, 1, 1), 1: (9, 9, 1, 9, 9)})
    assert found == 0
    assert not disturbed


def test_stolen_time_counts_although_it_was_charged_to_this_process(tmp_path):
    stat(tmp_path, {0: (1, 1, 1, 1, 1)})
    watch = Disturbance({0}, tmp_path)
    end = time.perf_counter() + SPAN_S
    while time.perf_counter() < end:
        pass
    stat(tmp_path, {0: (1.0, 1, 1, 1, 1.3)})
    assert watch.others_share() > 0.1
    assert watch.disturbed()


def test_what_this_process_used_is_taken_off(tmp_path):
    stat(tmp_path, {0: (0, 0, 0, 0, 0)})
    watch = Disturbance({0}, tmp_path)
    used = time.process_time()
    while time.process_time() - used < SPAN_S:
        pass
    stat(tmp_path, {0: (SPAN_S, 0, 0, 0, 0)})
    assert watch.others_share() < 0.05


def test_a_tick_more_may_be_an_error_of_counting(tmp_path):
    found, disturbed = share(tmp_path, {0}, {0: (0, 0, 0, 0, 0)}, {0: (2 * TICK_S, 0, 9, 0, 0)})
    assert found > 0
    assert not disturbed


def test_a_short_span_and_missing_accounts_tell_nothing(tmp_path):
    stat(tmp_path, {0: (0, 0, 0, 0, 0)})
    watch = Disturbance({0}, tmp_path)
    stat(tmp_path, {0: (9, 0, 0, 0, 0)})
    assert (watch.others_share(), watch.disturbed()) == (None, False)
    assert share(tmp_path, {0, 5}, {0: (0,) * 5}, {0: (1,) * 5}) == (None, False)


def test_a_real_process_on_the_same_core_is_seen():
    core = max(os.sched_getaffinity(0))
    code = (
        "import os, time; from device_agent.sensors.disturbance import Disturbance\n"
        f"os.sched_setaffinity(0, {{{core}}}); watch = Disturbance({{{core}}}); end = time.monotonic() + 1\n"
        "while time.monotonic() < end: pass\n"
        "print(watch.others_share(), watch.disturbed())"
    )
    busy = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as other:
        try:
            said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        finally:
            other.kill()
    found, disturbed = said.stdout.split()
    assert float(found) > 0.2, "two processes that never wait share a core"
    assert disturbed == "True"
