"""What the tests here read: Dockerfiles as instructions, and the compose file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, with its lines joined."""

    keyword: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    """Return a Dockerfile's instructions; comments are left out."""
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [Instruction(keyword.upper(), text.strip()) for keyword, text in split]


def last_stage(path: Path) -> list[Instruction]:
    """Return what makes the image itself, from its FROM on."""
    found = instructions(path)
    start = max(number for number, each in enumerate(found) if each.keyword == "FROM")
    return found[start:]


def arguments(path: Path) -> dict[str, str]:
    """Return a Dockerfile's build arguments and their defaults."""
    pairs = [each.text.partition("=") for each in instructions(path) if each.keyword == "ARG"]
    return {name: value.strip('"') for name, _, value in pairs}


def compose() -> dict[str, Any]:
    """Return the compose file, with its anchors resolved."""
    with (FOLDER / "compose.yaml").open(encoding="utf-8") as stream:
        loaded: dict[str, Any] = yaml.safe_load(stream)
    return loaded
