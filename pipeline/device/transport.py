"""What carries the bytes between this host and an agent."""

from __future__ import annotations

from typing import BinaryIO, Protocol


class Transport(Protocol):
    """A way to one agent: opened, then closed; over a network it may be opened again then.

    `name` is for messages ("device 'local'").
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """Start or reach the agent; return the stream it is read from, and the one it is written to.

        Raises:
            TransportError: there is no way to the agent.
        """

    def close(self) -> None:
        """End the agent, or the way to it; never fails, and waits for some seconds at most.

        Whoever writes to the agent closes that stream first, which asks the agent to end by itself.
        """

    def last_words(self) -> str:
        """Say how the agent ended, if it did, and what it printed last on stderr; empty if nothing."""
