import pytest

from device_agent import facts
from device_agent.sensors.conditions import ConditionSensors, why_missing
from device_agent.sensors.frequency import fastest_cores
from device_agent.sensors.memory import MemorySensor
from device_agent.sensors.thermal import ThermalSensor


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def board(tmp_path):
    write(
        tmp_path,
        {
            "class/thermal/thermal_zone0/type": "gpu-thermal\n",
            "class/thermal/thermal_zone0/temp": "90000\n",
            "class/thermal/thermal_zone1/type": "cpu-thermal\n",
            "class/thermal/thermal_zone1/temp": "48312\n",
            "class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
            "class/thermal/cooling_device0/cur_state": "0\n",
            "devices/platform/soc/soc:firmware/get_throttled": "50000\n",
            "devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
            "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
            "class/hwmon/hwmon0/name": "cpu_thermal\n",
            "class/hwmon/hwmon1/name": "ina226\n",
            "class/hwmon/hwmon1/power1_input": "2500000\n",
        },
    )
    return tmp_path


def test_conditions_are_read_in_the_units_of_their_names(board):
    conditions = ConditionSensors(0, board).read()
    assert conditions["governor"] == "ondemand"
    assert conditions["frequency_mhz"] == 1500
    assert conditions["temperature_c"] == 48.312
    assert conditions["throttled"] is False, "bits 16-19 are history"


@pytest.mark.parametrize("bits", ["1", "50004", "0x8"])
def test_a_throttle_bit_of_now_means_throttled(board, bits):
    write(board, {"devices/platform/soc/soc:firmware/get_throttled": bits})
    assert ThermalSensor(board).throttled() is True


def test_an_active_cooling_device_means_throttled(board):
    write(board, {"class/thermal/cooling_device0/cur_state": "2\n"})
    assert ThermalSensor(board).throttled() is True


def test_a_board_without_sensors_reads_none_and_says_why(tmp_path):
    sensors = ConditionSensors(0, tmp_path)
    conditions = sensors.read()
    absent = {"governor", "frequency_mhz", "temperature_c", "throttled"}
    assert {name for name, value in conditions.items() if value is None} == absent
    assert set(why_missing(conditions)) == absent
    assert sensors.names == [MemorySensor.name]


def test_the_sensors_of_a_board_are_named(board):
    assert facts.sensors(board) == [
        "memory:VmHWM",
        "frequency:cpufreq",
        "thermal:cpu-thermal",
        "throttled:firmware",
        "throttled:cooling-device",
        "energy:hwmon:ina226",
    ]


def test_a_watch_keeps_the_extremes_of_what_it_saw(board):
    def now(mhz, celsius):
        write(
            board,
            {
                "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": f"{mhz}000\n",
                "class/thermal/thermal_zone1/temp": f"{celsius}000\n",
            },
        )

    now(1500, 50)
    watch = ConditionSensors(0, board).watch({0})
    now(600, 71)
    watch.look()
    now(1000, 60)
    during = watch.during()
    assert (during["frequency_min_mhz"], during["frequency_max_mhz"]) == (600, 1500)
    assert during["temperature_max_c"] == 71
    assert during["throttled"] is False


def test_the_clocks_of_all_watched_cores_count(board):
    write(board, {"devices/system/cpu/cpu3/cpufreq/scaling_cur_freq": "900000\n"})
    during = ConditionSensors(0, board).watch({0, 3}).during()
    assert (during["frequency_min_mhz"], during["frequency_max_mhz"]) == (900, 1500)


def test_a_firmware_bit_of_since_the_start_counts_only_if_it_is_new(board):
    firmware = "devices/platform/soc/soc:firmware/get_throttled"
    watch = ConditionSensors(0, board).watch({0})
    assert watch.during()["throttled"] is False, "50000 was there before"
    write(board, {firmware: "70000"})
    assert watch.during()["throttled"] is True, "the clock was capped between two looks"


def test_a_watch_over_a_board_without_sensors_sees_nothing(tmp_path):
    during = ConditionSensors(0, tmp_path, tmp_path / "proc").watch({0}).during()
    assert set(during.values()) == {None}


def test_the_fastest_kind_of_core_is_chosen_and_core_0_last(tmp_path):
    for core, capacity in enumerate((446, 446, 1024, 1024)):
        write(tmp_path, {f"devices/system/cpu/cpu{core}/cpu_capacity": f"{capacity}\n"})
    assert fastest_cores({0, 1, 2, 3}, 2, tmp_path) == (2, 3)
    assert fastest_cores({0, 1, 2, 3}, 3, tmp_path) == (1, 2, 3)
    assert fastest_cores({0, 1}, 1, tmp_path / "nothing") == (1,)


def test_memory_of_this_process_is_read():
    memory = MemorySensor()
    peak, now, total = memory.process_peak_bytes(), memory.process_bytes(), memory.total_bytes()
    assert peak is not None
    assert now is not None
    assert total is not None
    assert 0 < now <= peak < total


def test_the_board_is_named_by_its_device_tree(tmp_path):
    write(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
            "proc/meminfo": "MemTotal:        3884360 kB\n",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        },
    )
    board = facts.board(tmp_path, tmp_path / "proc")
    assert board["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert board["soc"] == "bcm2711"
    assert board["memory_bytes"] == 3884360 * 1024
    assert board["os"] == "Debian GNU/Linux 12 (bookworm)"
