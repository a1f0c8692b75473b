"""A clock for what `torch.export` takes, so that our own time is what is left."""

from __future__ import annotations

import time
from typing import Any

import torch


class ExportClock:
    """Adds up the processor seconds spent inside torch.export.export, wherever it is called from."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._depth = 0
        real = torch.export.export

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            begun = time.process_time()
            try:
                return real(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.spent += time.process_time() - begun

        torch.export.export = timed
