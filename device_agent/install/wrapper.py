"""The command `device-agent`: a few lines of sh that find the version in use."""

from __future__ import annotations

import json
import shlex
import sys

from device_agent.active import STATE_VARIABLE
from device_agent.install.layout import Layout

# -I, so that a file in whatever folder one stands in is not taken for a module; the agent's own processes get the path
_START = """\
import os, sys
tree = os.path.realpath({current})
path = [tree, tree + "/lib"]
sys.path[:0] = path
os.environ["PYTHONPATH"] = os.pathsep.join(path)
from device_agent.cli import main
sys.exit(main())
"""


def text(layout: Layout) -> str:
    """Return the wrapper, for this very Python."""
    lines = ["#!/bin/sh", "# Written by `pipeline device provision`; changes are lost at the next one."]
    if not layout.system:
        state = shlex.quote(str(layout.state))
        lines += [f"{STATE_VARIABLE}=${{{STATE_VARIABLE}:-{state}}}", f"export {STATE_VARIABLE}"]
    start = _START.format(current=json.dumps(str(layout.current)))
    return "\n".join([*lines, f'exec {shlex.quote(sys.executable)} -I -c {shlex.quote(start)} "$@"', ""])
