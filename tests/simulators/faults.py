"""What goes wrong on a simulated board, and when: said beforehand by a test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Fault:
    """Something that strikes at the `nth` request from now (of `method`, if named), before or after it is served."""

    kind: str
    nth: int
    method: str | None
    served: bool


class Faults:
    """The faults that are still to come."""

    def __init__(self) -> None:
        self._at_requests: list[Fault] = []
        self._dying_workers = 0
        self._golden_errors: list[float] = []
        self._upload_bytes_left: int | None = None

    # --- for the test -----------------------------------------------------------------------------------------

    def break_link(self, nth: int = 1, method: str | None = None, *, served: bool = False) -> None:
        """Break the connection at a request; one that is `served` has its effect, only its answer is lost."""
        self._at_requests.append(Fault("link", nth, method, served))

    def cut_power(self, nth: int = 1, method: str | None = None, *, served: bool = False) -> None:
        """Cut the board's power at a request; it comes back at once, and every connection is gone."""
        self._at_requests.append(Fault("power", nth, method, served))

    def break_upload(self, after_bytes: int) -> None:
        """Break the connection when so many more bytes of uploads have come."""
        self._upload_bytes_left = after_bytes

    def kill_workers(self, times: int = 1) -> None:
        """Have the next workers die."""
        self._dying_workers = times

    def wrong_answer(self, error: float, times: int = 1) -> None:
        """Have the next checks find answers that are off by so much."""
        self._golden_errors += [error] * times

    # --- for the board ----------------------------------------------------------------------------------------

    def at_request(self, method: str) -> Fault | None:
        """Count a request; return the fault that strikes at it."""
        struck = None
        for fault in [each for each in self._at_requests if each.method in (None, method)]:
            fault.nth -= 1
            if fault.nth == 0:
                self._at_requests.remove(fault)
                struck = struck or fault
        return struck

    def arriving(self, size: int) -> int | None:
        """Return how many of a chunk's bytes come before the link breaks; `None` if all do."""
        left = self._upload_bytes_left
        if left is None:
            return None
        self._upload_bytes_left = left - size if size <= left else None
        return None if size <= left else left

    def worker_dies(self) -> bool:
        """Say whether the worker that starts now dies."""
        self._dying_workers -= 1
        return self._dying_workers >= 0

    def golden_error(self) -> float:
        """Return how far off the answers of the check are that begins now."""
        return self._golden_errors.pop(0) if self._golden_errors else 0.0
