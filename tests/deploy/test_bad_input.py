"""What bad input gets: one clear line, the right exit code, no traceback, nothing changed on the device."""

from __future__ import annotations

from pathlib import Path

import pytest


def _refused(home, *arguments: str, says: tuple[str, ...], code: int = 2) -> None:
    process = home.run(*arguments) if arguments[0] != "deploy" else home.run("deploy", *arguments[1:])
    text = process.stdout + process.stderr
    assert process.returncode == code, text
    assert "Traceback" not in text
    for words in says:
        assert words in text
    assert not (home.agent_state / "active").exists()


def test_unknown_device(fresh_home) -> None:
    _refused(fresh_home, "deploy", "--device", "toaster", says=("toaster", "local"))


def test_unknown_profile(fresh_home) -> None:
    _refused(fresh_home, "deploy", "--profile", "rpi9", says=("rpi9", "rpi4"))


def test_unknown_task(fresh_home) -> None:
    _refused(fresh_home, "deploy", "--task", "nothing.toml", says=("nothing.toml",))


def test_all_faults_of_a_profile_are_told_at_once(fresh_home) -> None:
    wrong = fresh_home.profile.read_text().replace(
        'latency = "60%"', 'latency = "50%%"\nfile_mb = -1.0\nlatancy = 3'
    )
    fresh_home.profile.write_text(wrong)
    _refused(
        fresh_home,
        "deploy",
        "--task",
        str(fresh_home.task),
        "--profile",
        str(fresh_home.profile),
        says=("quick.toml", "budgets.latency", "50%%", "budgets.file_mb", "latancy"),
    )


@pytest.mark.parametrize("budget", ["latency=-5ms", "latency=5", "speed=3ms", "latency=50%%", "file=0MB"])
def test_a_budget_that_makes_no_sense(fresh_home, budget: str) -> None:
    _refused(fresh_home, "deploy", "--budget", budget, says=(budget.split("=", maxsplit=1)[0],))


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("no_such_module:build", "no_such_module"),
        ("small_net.py:bild", "bild"),
        ("small_net.py:raises", "raises"),
        ("small_net.py:nothing", "nothing"),
    ],
)
def test_a_factory_that_does_not_give_a_model(fresh_home, factory: str, says: str) -> None:
    net = fresh_home.folder / "small_net.py"
    net.write_text(
        net.read_text() + "\ndef raises():\n    raise ValueError('no luck')\n\ndef nothing():\n    return 7\n"
    )
    fresh_home.task.write_text(fresh_home.task.read_text().replace("small_net.py:build", factory))
    _refused(fresh_home, "deploy", "--task", str(fresh_home.task), says=(says,))


def test_weights_that_do_not_fit_name_the_keys(fresh_home) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(
        {"stem.weight": torch.zeros(64, 1, 3, 3), "stern.bias": torch.zeros(64)},
        fresh_home.folder / "w.safetensors",
    )
    _refused(
        fresh_home,
        "deploy",
        "--task",
        str(fresh_home.task),
        "--weights",
        str(fresh_home.folder / "w.safetensors"),
        says=("missing", "stern.bias"),
    )


def test_missing_and_truncated_data(fresh_home, tmp_path: Path) -> None:
    text = fresh_home.task.read_text().replace('source = "npz:digits.npz"', 'source = "cifar10:cifar"')
    fresh_home.task.write_text(text.replace("[1, 8, 8]", "[3, 32, 32]"))
    _refused(fresh_home, "deploy", "--task", str(fresh_home.task), says=("cifar", "PIPELINE_DATA"))
    folder = fresh_home.folder / "cifar"
    folder.mkdir()
    for name in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        (folder / name).write_bytes(b"\x01" * 4000)
    net = fresh_home.folder / "small_net.py"
    net.write_text(net.read_text().replace("nn.Conv2d(1, 64", "nn.Conv2d(3, 64"))
    _refused(fresh_home, "deploy", "--task", str(fresh_home.task), says=("data_batch_1.bin", "4,000"))


def test_an_input_shape_that_the_model_refuses(fresh_home) -> None:
    fresh_home.task.write_text(fresh_home.task.read_text().replace("[1, 8, 8]", "[5, 8, 8]"))
    _refused(fresh_home, "deploy", "--task", str(fresh_home.task), says=("input", "5"))


def test_a_state_folder_that_cannot_be_written(fresh_home) -> None:
    (fresh_home.folder / "state").write_text("in the way")
    _refused(fresh_home, "deploy", "--task", str(fresh_home.task), says=("state",))


def test_unknown_run(fresh_home) -> None:
    _refused(fresh_home, "deploy", "--resume", "20200101-000000-abcd", says=("20200101", "pipeline run list"))


def test_unknown_option(fresh_home) -> None:
    _refused(fresh_home, "deploy", "--devise", "local", says=("--devise",))
