"""How tests are shared out among processes: those that share something costly stay together."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOGETHER = {
    "board",
    "deploy",
    "device",
    "docker",
}  # one board, one deploy, one bench of devices, one set of images


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name each test's group for `--dist loadgroup`: its folder where that shares something, else its file."""
    for item in items:
        place = item.path.relative_to(HERE)
        group = place.parts[0] if place.parts[0] in TOGETHER else str(place)
        item.add_marker(pytest.mark.xdist_group(group))
