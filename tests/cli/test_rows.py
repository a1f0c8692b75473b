"""Progress of several devices on a terminal."""

from __future__ import annotations

import io
import re
import threading

import pytest
from rich.console import Console

from pipeline.cli.rows import Rows


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)


def shown(screen: Console) -> str:
    screen.file.flush()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.file.getvalue())  # type: ignore[attr-defined]


def test_each_device_has_a_line_that_goes_through_its_phases(screen: Console) -> None:
    with Rows(screen, ["rpi4", "zero2w"]) as rows:
        rows.phase("rpi4", "connecting")
        rows.sent("rpi4", 1_000_000, 4_000_000)
        rows._progress.refresh()
        assert "1.0 MB of 4.0 MB" in shown(screen)
        rows.counted("rpi4", "measure", 20, 200)
        rows._progress.refresh()
        assert "20/200" in shown(screen)
        rows.phase("rpi4", "checking")
        assert rows._progress.tasks[0].total is None  # a bar that only says that something is done
        rows.end("rpi4", ok=True)
        rows.end("zero2w", ok=False)
        rows._progress.refresh()
    text = shown(screen)
    for words in ("waiting", "connecting", "sending", "measure", "checking", "done", "failed"):
        assert words in text


def test_names_and_words_of_devices_are_text(screen: Console) -> None:
    with Rows(screen, ["[red]a"]) as rows:
        rows.phase("[red]a", "it says [bold]\x1b[2J")
        rows._progress.refresh()
        text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]a" in text
    assert "[bold]" in text
    assert "\x1b[2J" not in text


def test_devices_tell_from_their_own_threads(screen: Console) -> None:
    names = [f"device-{number}" for number in range(12)]

    def tell(name: str) -> None:
        for done in range(50):
            rows.counted(name, f"phase {done % 3}", done, 50)
        rows.end(name, ok=True)

    with Rows(screen, names) as rows:
        threads = [threading.Thread(target=tell, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(task.finished for task in rows._progress.tasks)


def test_where_there_is_no_terminal_there_is_not_a_word() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with Rows(console, ["a"]) as rows:
        rows.sent("a", 1, 2)
        rows.end("a", ok=True)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
