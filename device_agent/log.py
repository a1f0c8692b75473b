"""What the agent says while it works: one JSON object a line on stderr, as journald and its readers like it."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

_PRIORITY = {"error": 3, "warning": 4, "info": 6}
_turn = threading.Lock()


def log(level: str, event: str, **fields: Any) -> None:
    """Write one line: the time in UTC (journald keeps its own), the level, the event and its fields."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"time": moment, "level": level, "event": event, **fields}, default=str)
    prefix = f"<{_PRIORITY[level]}>" if "JOURNAL_STREAM" in os.environ else ""
    with _turn:
        try:
            sys.stderr.write(f"{prefix}{line}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return  # nobody listens; the work goes on
