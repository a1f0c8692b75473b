"""Each kernel interface against trees as the kernel's documents (and dumps of real boards) show them."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from device_agent.sensors import energy
from device_agent.sensors.energy import vcio

# an answer of a Raspberry Pi 5's firmware
PMIC = """\
 3V7_WL_SW_A current(0)=0.12199130A
   3V3_SYS_A current(1)=0.15224510A
   1V8_SYS_A current(2)=0.17273960A
  DDR_VDD2_A current(3)=0.11613570A
  DDR_VDDQ_A current(4)=0.02941200A
   1V1_SYS_A current(5)=0.21763240A
    0V8_SW_A current(6)=0.50748360A
  VDD_CORE_A current(7)=1.54489000A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00018315A
   0V8_AON_A current(16)=0.00390720A
      HDMI_A current(22)=0.01709400A
 3V7_WL_SW_V volt(8)=3.60605200V
   3V3_SYS_V volt(9)=3.31931300V
   1V8_SYS_V volt(10)=1.79682400V
  DDR_VDD2_V volt(11)=1.10842400V
  DDR_VDDQ_V volt(12)=0.60549390V
   1V1_SYS_V volt(13)=1.10219700V
    0V8_SW_V volt(14)=0.80146440V
  VDD_CORE_V volt(15)=0.88725180V
   3V3_DAC_V volt(20)=3.31501500V
   3V3_ADC_V volt(21)=3.31684600V
   0V8_AON_V volt(19)=0.79882700V
      HDMI_V volt(23)=4.90440000V
     EXT5V_V volt(24)=4.87894000V
      BATT_V volt(25)=2.50512600V
"""
PMIC_RAILS_W = (
    0.43991
    + 0.50535
    + 0.31038
    + 0.12873
    + 0.01781
    + 0.23987
    + 0.40673
    + 1.37070
    + 0.00061
    + 0.00312
    + 0.08384
)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def chip(number, name, **files):
    return {f"class/hwmon/hwmon{number}/{file}": text for file, text in {"name": name, **files}.items()}


def found(root, **where):
    """{method: (mW or µJ, estimated)} of what find() returns, in its order."""
    sensors = energy.find(root, dev=root / "dev", **where)
    readings = {sensor.method: (sensor.read(), sensor.estimated) for sensor in sensors}
    return {
        method: (reading.power_mw if reading.energy_uj is None else reading.energy_uj, estimated)
        for method, (reading, estimated) in readings.items()
    }


def test_a_board_without_sensors_has_none(tmp_path):
    assert energy.find(tmp_path, dev=tmp_path / "dev") == ()


@pytest.mark.parametrize("name", ["ina219", "ina226", "ina260"])
def test_a_chip_with_a_power_file_is_read_in_microwatts(tmp_path, name):
    write(tmp_path, chip(0, name, in0_input=4, in1_input=5104, curr1_input=490, power1_input=2500000))
    assert found(tmp_path) == {f"hwmon:{name}": (2500.0, False)}


def test_without_a_power_file_voltage_times_current_counts(tmp_path):
    write(tmp_path, chip(0, "ltc4151", in1_input=5104, curr1_input=490))
    assert found(tmp_path) == {"hwmon:ltc4151": (pytest.approx(2500.96), False)}


def test_a_label_names_one_of_two_equal_chips(tmp_path):
    write(tmp_path, chip(0, "ina226", power1_input=1, label="usb"))
    write(tmp_path, chip(1, "ina226", power1_input=2))
    assert list(found(tmp_path)) == ["hwmon:ina226:usb", "hwmon:ina226"]


@pytest.mark.parametrize(("update_interval", "interval_s"), [(35, 0.035), (2, 0.01), (None, 0.02)])
def test_the_update_interval_is_honoured(tmp_path, update_interval, interval_s):
    files = {} if update_interval is None else {"update_interval": update_interval}
    write(tmp_path, chip(0, "ina226", power1_input=1, **files))
    assert energy.find(tmp_path)[0].interval_s == interval_s


def test_the_ina3221_adds_its_connected_channels_and_skips_sums_and_nc(tmp_path):
    channels = {"in1_label": "VBUS", "in1_input": 5000, "curr1_input": 400, "in1_enable": 1}
    channels |= {"in2_label": "NC", "in2_input": 5000, "curr2_input": 900, "in2_enable": 1}
    channels |= {"in3_label": "PERIPHERY", "in3_input": 3300, "curr3_input": 100, "in3_enable": 1}
    sums = {"in4_input": 40, "in7_input": 50, "in7_label": "sum of shunt voltages", "curr4_input": 1400}
    write(tmp_path, chip(0, "ina3221", **channels, **sums))
    assert found(tmp_path) == {"hwmon:ina3221": (2330.0, False)}


def test_a_disabled_channel_is_left_out(tmp_path):
    channels = {"in1_input": 5000, "curr1_input": 400, "in1_enable": 1}
    write(tmp_path, chip(0, "ina3221", **channels, in2_enable=0, in2_input=5000, curr2_input=7))
    assert found(tmp_path) == {"hwmon:ina3221": (2000.0, False)}


def test_a_channel_that_fails_later_fails_the_reading(tmp_path):
    channels = {f"{kind}{n}_input": 1000 for kind in ("in", "curr") for n in (1, 2, 3)}
    write(tmp_path, chip(0, "ina3221", **channels))
    (sensor,) = energy.find(tmp_path)
    (tmp_path / "class/hwmon/hwmon0/curr2_input").unlink()
    assert sensor.read() is None, "two of three channels are not the board's power"


def test_energy_counters_go_before_power_and_single_cores_are_not_the_board(tmp_path):
    write(tmp_path, chip(0, "ina226", power1_input=2000000))
    write(tmp_path, chip(1, "ina228", power1_input=2100000, energy1_input=123456))
    cores = {
        "energy1_input": 5,
        "energy1_label": "Ecore000",
        "energy2_input": 99,
        "energy2_label": "Esocket0",
    }
    write(tmp_path, chip(2, "amd_energy", **cores))
    write(tmp_path, chip(3, "scmi_sensors", energy1_input=7, energy1_label="big", energy2_input=8))
    assert list(found(tmp_path).items()) == [
        ("hwmon-energy:ina228", (123456, False)),
        ("hwmon-energy:amd_energy", (99, False)),
        ("hwmon-energy:scmi_sensors:big", (7, False)),
        ("hwmon-energy:scmi_sensors:energy2", (8, False)),
        ("hwmon:ina226", (2000.0, False)),
        ("hwmon:ina228", (2100.0, False)),
    ]


def test_a_component_is_not_taken_for_the_board(tmp_path):
    write(tmp_path, chip(0, "amdgpu", power1_input=9000000))
    write(tmp_path, {"class/power_supply/BAT-1/type": "Battery"})
    write(tmp_path, chip(1, "BAT_1", power1_input=5000000))  # how hwmon shows a battery once more
    assert found(tmp_path) == {}


def rapl(zone, name, energy_uj, wraps_at=262143328850):
    folder = f"class/powercap/{zone}"
    files = {f"{folder}/name": name, f"{folder}/max_energy_range_uj": wraps_at}
    return {**files, **({} if energy_uj is None else {f"{folder}/energy_uj": energy_uj})}


def test_a_package_zone_counts_with_its_wrap_and_without_its_children(tmp_path):
    write(tmp_path, {"class/powercap/intel-rapl/enabled": 1})
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:0:1", "dram")):
        write(tmp_path, rapl(zone, name, 1000))
    write(tmp_path, rapl("intel-rapl-mmio:0", "package-0", 1000))  # the same package by another way
    (sensor,) = energy.find(tmp_path)
    assert sensor.method == "powercap:package-0"
    assert sensor.read().energy_uj == 1000
    assert sensor.read().wraps_at_uj == 262143328850


def test_psys_is_preferred_unless_it_does_not_count(tmp_path):
    write(tmp_path, rapl("intel-rapl:0", "package-0", 1000))
    write(tmp_path, rapl("intel-rapl:1", "psys", 5000))
    assert list(found(tmp_path)) == ["powercap:psys"]
    write(tmp_path, rapl("intel-rapl:1", "psys", 0))
    assert list(found(tmp_path)) == ["powercap:package-0"]


def test_several_packages_are_added_each_with_its_own_wrap(tmp_path):
    write(tmp_path, rapl("intel-rapl:0", "package-0", 9_900, wraps_at=10_000))
    write(tmp_path, rapl("intel-rapl:1", "package-1", 500, wraps_at=10_000))
    (sensor,) = energy.find(tmp_path)
    assert sensor.method == "powercap:package-0+package-1"
    before = sensor.read().energy_uj
    write(tmp_path, rapl("intel-rapl:0", "package-0", 100, wraps_at=10_000))
    write(tmp_path, rapl("intel-rapl:1", "package-1", 700, wraps_at=10_000))
    assert sensor.read().energy_uj - before == 400


def test_a_counter_that_only_root_may_read_is_not_found():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path may not be entered by others
        root = Path(folder)
        root.chmod(0o755)
        write(root, rapl("intel-rapl:0", "package-0", 1000))
        (root / "class/powercap/intel-rapl:0/energy_uj").chmod(stat.S_IRUSR if os.getuid() == 0 else 0)
        child = os.fork()
        if child == 0:
            status = 99
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                status = len(energy.find(root))
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def supply(name, **files):
    return {f"class/power_supply/{name}/{file}": text for file, text in files.items()}


@pytest.mark.parametrize("sign", [-1, 1], ids=["by-the-book", "as-many-drivers-do"])
def test_a_discharging_battery_is_read_whatever_the_sign(tmp_path, sign):
    values = {"voltage_now": 3800000, "current_now": 500000 * sign}
    write(tmp_path, supply("BAT0", type="Battery", status="Discharging", **values))
    assert found(tmp_path) == {"power_supply:BAT0": (1900.0, False)}


def test_power_now_is_preferred(tmp_path):
    values = {"voltage_now": 3800000, "current_now": -500000, "power_now": 2100000}
    write(tmp_path, supply("BAT0", type="Battery", status="Discharging", **values))
    assert found(tmp_path) == {"power_supply:BAT0": (2100.0, False)}


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
def test_a_battery_that_does_not_discharge_tells_nothing_of_the_board(tmp_path, status):
    write(tmp_path, supply("BAT0", type="Battery", status=status, voltage_now=3800000, current_now=500000))
    assert found(tmp_path) == {}


def test_without_a_status_the_sign_decides(tmp_path):
    write(tmp_path, supply("a", type="Battery", voltage_now=3800000, current_now=-500000))
    write(tmp_path, supply("b", type="Battery", voltage_now=3800000, current_now=500000))
    assert list(found(tmp_path)) == ["power_supply:a"]


def test_a_supply_counts_if_it_senses_and_delivers(tmp_path):
    write(tmp_path, supply("axp20x-usb", type="USB", online=1, voltage_now=5100000, current_now=400000))
    write(tmp_path, supply("axp20x-ac", type="Mains", online=0, voltage_now=5100000, current_now=400000))
    write(tmp_path, supply("AC", type="Mains", online=1))
    negotiated = {"online": 1, "voltage_now": 5000000, "current_now": 3000000}
    write(tmp_path, supply("ucsi-source-psy-USBC000:001", type="USB", **negotiated))
    mouse = {"scope": "Device", "status": "Discharging", "voltage_now": 1, "current_now": -1}
    write(tmp_path, supply("hid-mouse-battery", type="Battery", **mouse))
    assert found(tmp_path) == {"power_supply:axp20x-usb": (2040.0, False)}


def old_jetson(**rails):
    files = {}
    for number, (name, milliwatts) in enumerate(rails.items()):
        folder = f"bus/i2c/drivers/ina3221x/{number // 3}-0040/iio:device{number // 3}"
        files[f"{folder}/rail_name_{number % 3}"] = name
        files[f"{folder}/in_power{number % 3}_input"] = milliwatts
    return files


def test_the_input_rail_of_a_jetson_nano_is_its_total(tmp_path):
    write(tmp_path, old_jetson(POM_5V_IN=2300, POM_5V_GPU=40, POM_5V_CPU=900))
    assert found(tmp_path) == {"jetson:POM_5V_IN": (2300, False)}


def test_a_jetson_without_an_input_rail_adds_its_rails(tmp_path):
    write(tmp_path, {"firmware/devicetree/base/compatible": "nvidia,p2972-0000\0nvidia,tegra194\0"})
    write(tmp_path, old_jetson(GPU=300, CPU=600, SOC=900, CV=0, VDDRQ=150, SYS5V=1500, NC=7))
    assert found(tmp_path) == {"jetson:GPU+CPU+SOC+CV+VDDRQ+SYS5V": (3450, False)}


def labelled(number, *rails):
    files = {}
    for channel, (label, millivolts, milliamperes) in enumerate(rails, start=1):
        files |= {f"in{channel}_label": label, f"in{channel}_input": millivolts, f"in{channel}_enable": 1}
        files[f"curr{channel}_input"] = milliamperes
    return chip(number, "ina3221", **files, in7_label="sum of shunt voltages", in7_input=9, curr4_input=9)


def test_a_newer_jetson_is_read_through_hwmon_and_only_once(tmp_path):
    rails = [("VDD_IN", 5000, 900), ("VDD_CPU_GPU_CV", 5000, 300), ("VDD_SOC", 5000, 200)]
    write(tmp_path, labelled(3, *rails))
    assert found(tmp_path) == {"jetson:VDD_IN": (4500.0, False)}


def test_a_rail_that_hangs_on_another_is_not_added_twice(tmp_path):
    write(
        tmp_path, {"firmware/devicetree/base/compatible": "nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0"}
    )
    rails = [("VDD_GPU_SOC", 20000, 100), ("VDD_CPU_CV", 20000, 50), ("VIN_SYS_5V0", 5000, 600)]
    write(tmp_path, labelled(3, *rails))
    write(tmp_path, labelled(4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 100), ("NC", 0, 0)))
    assert found(tmp_path) == {"jetson:VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0": (6000.0, False)}


def test_labelled_rails_on_a_board_that_is_no_jetson_are_a_chip(tmp_path):
    write(tmp_path, labelled(0, ("5V", 5000, 100)))
    assert found(tmp_path) == {"hwmon:ina3221": (500.0, False)}


@pytest.fixture
def pi5(tmp_path, monkeypatch):
    """A device file that answers no ioctl, and a vcgencmd that prints what is in a file."""
    write(
        tmp_path,
        {"dev/vcio": "", "bin/vcgencmd": f'#!/bin/sh\n[ "$1" = pmic_read_adc ] && cat {tmp_path}/said'},
    )
    (tmp_path / "bin/vcgencmd").chmod(0o755)
    (tmp_path / "said").write_text(PMIC)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


def test_the_pi5_rails_give_an_estimate_that_is_called_one(pi5):
    watts = PMIC_RAILS_W * 1.1451 + 0.5879
    assert found(pi5) == {"estimated:pmic": (pytest.approx(watts * 1000, rel=1e-3), True)}


def test_the_pi5_is_asked_at_most_ten_times_a_second(pi5):
    assert energy.find(pi5, dev=pi5 / "dev")[0].interval_s * 0.75 >= 0.1


def test_an_estimate_comes_after_every_measurement(pi5):
    write(pi5, supply("BAT0", type="Battery", status="Discharging", power_now=1))
    assert list(found(pi5)) == ["power_supply:BAT0", "estimated:pmic"]


def test_firmware_that_knows_no_such_command_is_no_sensor(pi5):
    (pi5 / "said").write_text('error=1 error_msg="Command not registered"\n')
    assert found(pi5) == {}


def test_without_the_device_file_nothing_is_spawned(pi5):
    (pi5 / "dev/vcio").unlink()
    assert found(pi5) == {}


def test_a_rail_without_a_current_is_left_out_of_the_sum(pi5):
    (pi5 / "said").write_text(" A_A current(1)=2.0A\n A_V volt(2)=3.0V\n EXT5V_V volt(24)=5.0V\n")
    assert found(pi5) == {"estimated:pmic": (pytest.approx(6 * 1145.1 + 587.9), True)}


def test_the_mailbox_message_has_the_layout_of_the_firmware():
    message = vcio.question("pmic_read_adc")
    words = [int.from_bytes(message[n : n + 4], "little") for n in range(0, 24, 4)]
    assert words == [len(message), 0, 0x00030080, 1024, 0, 0]
    assert len(message) == (6 + 256 + 1) * 4
    assert message[24:40] == b"pmic_read_adc\0\0\0"
    message[24:27] = b"ok\0"
    assert vcio.answer(message) == "ok"
    message[20:24] = (1).to_bytes(4, "little")
    assert vcio.answer(message) is None
