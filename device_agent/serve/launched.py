"""The daemon as `device-agent launch` starts it: told everything by one JSON object.

So it needs no argument parser, which would stay in its memory (0.5 MB). The launcher may be older or newer than
this version: what one of them does not know of is left out, or has its default.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from device_agent.errors import RequestError
from device_agent.serve import daemon
from device_agent.settings import Listening, Settings

_PATHS = ("state", "keys", "hooks", "path")


def main(text: str) -> int:
    """Serve as `settings.told` says; returns the exit status."""
    document = json.loads(text)
    settings = Settings(**_known(document["settings"], Settings._fields))
    listening = Listening(**_known(document["listening"], Listening._fields))
    try:
        return daemon.serve(settings._replace(updates_itself=True), listening)
    except (RequestError, OSError) as error:
        print(f"device-agent: {error}", file=sys.stderr)
        return 4


def _known(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: Path(value) if name in _PATHS and value is not None else value
        for name, value in values.items()
        if name in names
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
