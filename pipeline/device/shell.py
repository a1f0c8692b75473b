"""Commands on a board, for what comes before there is an agent: looking at it, and provisioning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pipeline.device.transport import Transport


@dataclass(frozen=True)
class Completed:
    """How a command ended, and what it printed."""

    status: int
    stdout: bytes
    stderr: bytes


class Shell(Protocol):
    """A way to run commands on one board; `name` is for messages ("device 'rpi4'")."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def run(self, command: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> Completed:
        """Run a command line with the board's shell; a status that is not 0 is no error here.

        Raises:
            TransportError: the board cannot be reached, the link broke, or the time was over.
        """

    def transport(self, command: str) -> Transport:
        """Return a way to a command that stays, whose stdin and stdout carry frames."""

    def close(self) -> None:
        """End the connection; closing twice does no harm."""
