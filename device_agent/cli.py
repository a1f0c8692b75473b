"""The command `device-agent`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from device_agent import __version__
from device_agent.agent import status
from device_agent.errors import RequestError
from device_agent.stdio import serve_stdio


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command; returns the exit status (2 for a call that is wrong, 4 for a folder that is)."""
    options = _parser().parse_args(arguments)
    folder = options.state.expanduser().absolute()
    if options.command == "stdio":
        return serve_stdio(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(status(folder), indent=2))
    except (RequestError, OSError) as error:
        print(f"device-agent: {error}", file=sys.stderr)
        return 4
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="device-agent", description=__doc__)
    parser.add_argument("--version", action="version", version=f"device-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    stdio = commands.add_parser("stdio", help="serve one host on stdin and stdout")
    stdio.add_argument("--standalone", action="store_true", required=True, help="with no daemon behind it")
    show = commands.add_parser("status", help="print what the agent knows about this board, as JSON")
    for command in (stdio, show):
        command.add_argument("--state", type=Path, required=True, metavar="DIR", help="the state folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
