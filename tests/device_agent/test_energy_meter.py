"""An external meter's lines, through real FIFOs, pseudo-terminals, files and pipes."""

import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from meter_stream import EPOCH_S, MeterStream

from device_agent.errors import RequestError
from device_agent.sensors import energy
from device_agent.sensors.energy.meter import Meter, parse
from device_agent.sensors.energy.windows import Sampler, integrate, measure

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "meter"
    os.mkfifo(path)
    file = os.open(path, os.O_RDWR)
    yield path, file
    os.close(file)


@pytest.fixture
def opened():
    """Open meters that are closed at the end."""
    meters = []

    def open_meter(name):
        meters.append(Meter(str(name)))
        return meters[-1]

    yield open_meter
    for meter in meters:
        meter.close()


def quiet(_event):
    pass


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        (b"1.5,5.0,0.5", (1.5, 2.5)),
        (b"1.5;5.0;0.5", (1.5, 2.5)),
        (b"1,5;5,0;0,5", (1.5, 2.5)),
        (b"1.5 5.0\t0.5", (1.5, 2.5)),
        (b"1.5, 5.0, 0.5, 21.3, ok", (1.5, 2.5)),
        (b"1e0,5,-0.1", (1.0, -0.5)),
        (b"time_s,volts,amps", None),
        (b"1.5,5.0", None),
        (b"1.5,nan,0.5", None),
        (b"inf,5,0.5", None),
        (b"\xff\xfe,5,5", None),
    ],
)
def test_a_line_is_read_or_refused(line, sample):
    assert parse(line) == sample


def test_headers_and_comments_are_no_failures(fifo, opened):
    path, file = fifo
    with MeterStream(file) as stream:
        stream.send("# a power logger\ntime_s,volts,amps\n")
        meter = opened(path)
        stream.send("# still going\n\n")
        time.sleep(0.05)
        assert None not in meter.take()
        stream.send("what?\n")
        time.sleep(0.05)
        assert meter.take().count(None) == 1


def test_every_sample_of_a_fast_meter_counts_and_power_is_volts_times_amperes(fifo, opened):
    path, file = fifo
    with MeterStream(file) as stream:
        meter = opened(path)
        count = len(stream.sent)
        taken = []
        while len(taken) < 50:
            taken += meter.take()
    assert [reading.power_mw for reading in taken] == [2500.0] * len(taken)
    times = [reading.time_s for reading in taken]
    sent = stream.sent[count - 1 :]
    assert (
        len([moment for moment in sent if times[0] <= moment + 1e-3 and moment <= times[-1]])
        >= len(times) - 5
    )


def test_the_meters_clock_is_mapped_by_the_sample_that_came_soonest(fifo, opened):
    """What waited in the FIFO before anybody listened is old; it must not shift the rest."""
    path, file = fifo
    long_ago_s = time.monotonic() + EPOCH_S - 60
    with MeterStream(file) as stream:
        for n in range(100):
            stream.send(f"{long_ago_s + n / 10:.6f},5,0.5\n")
        meter = opened(path)
        stream.send("")
        reading = meter.read()
    delays = [reading.time_s - moment for moment in stream.sent]
    nearest = min(delays, key=abs)
    assert -1e-3 <= nearest < 0.25, "a mapped time is never before the sample was sent, and little after"


def test_the_interval_is_the_usual_step_of_the_stream(fifo, opened):
    path, file = fifo
    with MeterStream(file):
        assert opened(path).interval_s == pytest.approx(0.01, rel=0.9)


def test_a_serial_port_is_made_raw_at_the_speed_asked_for(opened):
    ours, theirs = pty.openpty()
    port = os.ttyname(theirs)
    with MeterStream(ours, line="{time:.6f} {volts} {amperes}\r\n"):
        meter = opened(f"serial:{port}@57600")
        assert meter.method == f"meter:{port}"
        assert meter.read().power_mw == 2500.0
        settings = termios.tcgetattr(theirs)
        assert settings[4:6] == [termios.B57600] * 2
        assert not settings[3] & (termios.ICANON | termios.ECHO)
    os.close(theirs)
    os.close(ours)


def test_a_growing_file_is_followed_and_its_past_left_alone(tmp_path, opened):
    path = tmp_path / "log.csv"
    old = "".join(f"{n / 100},5,9\n" for n in range(20_000))
    path.write_text(f"time_s,volts,amps\n{old}")
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    with MeterStream(file):
        time.sleep(0.1)  # the last lines are of now
        assert opened(path).read().power_mw == 2500.0
    os.close(file)


def test_stdin_is_a_meter_too():
    program = (
        "from device_agent.sensors import energy;"
        "meter = energy.find(meter='-')[0]; print(meter.method, meter.read().power_mw)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        with MeterStream(os.dup(process.stdin.fileno())):
            assert process.stdout.read() == b"meter:stdin 2500.0\n"
        process.stdin.close()


def test_a_named_meter_goes_before_the_boards_own_sensors(fifo, tmp_path):
    path, file = fifo
    (tmp_path / "class/hwmon/hwmon0").mkdir(parents=True)
    (tmp_path / "class/hwmon/hwmon0/name").write_text("ina226\n")
    (tmp_path / "class/hwmon/hwmon0/power1_input").write_text("1000\n")
    with MeterStream(file):
        sensors = energy.find(tmp_path, dev=tmp_path / "dev", meter=str(path))
    assert [sensor.method for sensor in sensors] == [f"meter:{path}", "hwmon:ina226"]
    assert not sensors[0].estimated
    sensors[0].close()


@pytest.mark.parametrize("name", ["/no/such/meter", "serial:/no/such/port@115200"])
def test_a_meter_that_is_not_there_is_a_fault(tmp_path, name):
    with pytest.raises(RequestError, match="cannot be opened") as caught:
        energy.find(tmp_path, dev=tmp_path, meter=name)
    assert caught.value.code == "no_meter"
    assert caught.value.hint


def test_a_speed_that_no_port_has_is_a_fault():
    ours, theirs = pty.openpty()
    with pytest.raises(RequestError, match="no speed of 12345 baud"):
        Meter(f"serial:{os.ttyname(theirs)}@12345")
    os.close(theirs)
    os.close(ours)


def test_a_silent_meter_is_a_fault(fifo):
    path, _file = fifo
    with pytest.raises(RequestError, match="no two samples"):
        Meter(str(path))


def test_windows_are_measured_by_a_meter(fifo, opened):
    path, file = fifo
    with MeterStream(file):
        figures = measure(
            lambda: time.sleep(0.01), opened(path), windows=3, window_s=0.4, idle_s=0.2, tell=quiet
        )
    assert figures.missing == ""
    for window in figures.windows:
        assert window.energy_mj == pytest.approx(2500 * window.duration_s)
    assert figures.idle_mw == pytest.approx(2500)
    assert figures.net_mj == pytest.approx(0, abs=1)


def misbehaving(fifo, opened, misbehave):
    """Measure three windows of which the second misbehaves after its first inference; return their faults."""
    path, file = fifo
    calls = 0
    with MeterStream(file) as stream:

        def call():
            nonlocal calls
            calls += 1
            time.sleep(0.3)
            if calls == 3:
                misbehave(stream)

        return measure(call, opened(path), windows=3, window_s=0.5, idle_s=0, tell=quiet)


def test_a_stream_that_stalls_spoils_its_window(fifo, opened):
    def stall(stream):
        stream.silent.set()
        time.sleep(1.3)
        stream.silent.clear()
        time.sleep(0.2)  # the next window is not to begin in the gap

    figures = misbehaving(fifo, opened, stall)
    assert [window.valid for window in figures.windows] == [True, False, True]
    assert "stalled for 1." in figures.windows[1].why
    assert figures.gross_mj == pytest.approx(2500 * 0.3, rel=0.2), "the other two count"


def test_a_stream_that_goes_backwards_spoils_its_window(fifo, opened):
    def go_back(stream):
        stream.shift_s = -0.1
        time.sleep(1.5)  # the following window begins after it

    figures = misbehaving(fifo, opened, go_back)
    assert [window.valid for window in figures.windows] == [True, False, True]
    assert figures.windows[1].why == "the sensor's time went backwards"


def test_a_meter_that_starts_anew_gives_no_energy_from_then_on(fifo, opened):
    def restart(stream):
        stream.shift_s = -EPOCH_S

    figures = misbehaving(fifo, opened, restart)
    assert [window.valid for window in figures.windows] == [True, False, False]
    assert figures.gross_mj is None
    assert figures.missing == "2 of 3 windows were invalid: the sensor's time went backwards"


def test_garbled_lines_spoil_a_window(fifo, opened):
    path, file = fifo
    with MeterStream(file) as stream, Sampler(opened(path)) as sampler:
        begin_s = time.monotonic()
        for _ in range(20):
            stream.send("\x00\x7f~\n")
            time.sleep(0.02)
        end_s = time.monotonic()
        sampler.wait_beyond(end_s, 2.0)
    assert len(sampler.misses_s) == 20
    assert integrate(sampler.readings, begin_s, end_s) == pytest.approx(2500 * (end_s - begin_s))
