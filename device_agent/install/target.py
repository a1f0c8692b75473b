"""What is to be there when the installer is done, as the host says it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Optional

from device_agent import errors
from device_agent.errors import RequestError
from device_agent.serve.request import Params

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,63}\$?")
_MOST_WHEELS = 100


class Wheel(NamedTuple):
    """One package of the board's Python: its name, its version, and the digest and size of its wheel."""

    name: str
    version: str
    sha256: str
    size: int

    @property
    def folder(self) -> str:
        """Return the name of the folder that it is unpacked to."""
        return f"{self.name}-{self.version}-{self.sha256[:12]}"


class Target(NamedTuple):
    """An installation.

    Args:
        tree: name of the version's folder; the same name stands for the same content.
        version: of the agent in it.
        wheels: the packages beside it.
        runtimes: what must load before the version is used.
        verifies: it must be able to verify signatures.
        operator: the user of the board who is to measure and change; `None`: nobody more than there are.
        trust: the file of trusted keys; `None`: none is to be installed.
        replace_trust: install it even if there is one.
    """

    tree: str
    version: str
    wheels: tuple[Wheel, ...]
    runtimes: tuple[str, ...]
    verifies: bool
    operator: Optional[str]
    trust: Optional[dict[str, Any]]
    replace_trust: bool


def parse(params: Params) -> Target:
    """Read a target.

    Raises:
        RequestError: `bad_request`.
    """
    wheels = params.get("wheels")
    runtimes = params.get("runtimes")
    operator, trust = params.get("operator"), params.get("trust")
    if not isinstance(wheels, list) or len(wheels) > _MOST_WHEELS or not isinstance(runtimes, list):
        raise RequestError("bad_request", "parameters 'wheels' and 'runtimes' are no lists")
    if operator is not None and not (isinstance(operator, str) and _USER.fullmatch(operator)):
        raise RequestError("bad_request", "parameter 'operator' is no name of a user")
    if trust is not None and not isinstance(trust, dict):
        raise RequestError("bad_request", "parameter 'trust' is no object")
    return Target(
        tree=_name(params, "tree"),
        version=_name(params, "version"),
        wheels=tuple(_wheel(each) for each in wheels),
        runtimes=tuple(_name({"runtimes": each}, "runtimes") for each in runtimes),
        verifies=params.get("verifies") is True,
        operator=operator,
        trust=trust,
        replace_trust=params.get("replace_trust") is True,
    )


def _wheel(entry: object) -> Wheel:
    if not isinstance(entry, dict):
        raise RequestError("bad_request", "a wheel is no object")
    return Wheel(
        _name(entry, "name"),
        _name(entry, "version"),
        errors.sha256_of(entry, "sha256"),
        errors.integer(entry, "size"),
    )


def _name(params: Params, key: str) -> str:
    """Return a parameter that is safe as the name of a file."""
    value = errors.text(params, key)
    if not _NAME.fullmatch(value):
        raise RequestError("bad_request", f"parameter {key!r}: {value[:100]!r} is no plain name")
    return value
