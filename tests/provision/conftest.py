"""The user's own folders are not a test's."""

import pytest

from pipeline.device.provision import plan


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    for name in ("CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    assert plan.default_key_file().is_relative_to(tmp_path)
