"""What the installer can be asked: which steps are left to a target, to do them, and to remove everything."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Optional

from device_agent.durable import make_folder, write_json
from device_agent.errors import RequestError
from device_agent.install import accounts, archive, proving, removal, service, switch, tidy, tree, wrapper
from device_agent.install.layout import Layout
from device_agent.install.step import Step
from device_agent.install.target import Target, Wheel, parse
from device_agent.serve.counters import Counters
from device_agent.serve.files import Files
from device_agent.serve.request import Params, Request, Session
from device_agent.updates.store import FileStore
from device_agent.updates.trust import read_keys


class Installer:
    """The service behind an installing connection.

    Args:
        layout: where the installation lies.
        package: zip file with the agent's package.
        looks_only: it may be asked what there is, and changes nothing.
    """

    def __init__(self, layout: Layout, package: Path, *, looks_only: bool) -> None:
        self.counters = Counters()
        self._layout = layout
        self._package = package
        self._working = threading.Lock()
        self._counting = threading.Lock()
        self._under_way = 0
        self._last = time.monotonic()
        self._proof: Optional[proving.Proof] = None
        self._methods = {"install.look": self.look}
        if not looks_only:
            make_folder(layout.root, 0o755)
            make_folder(layout.incoming, 0o755)
            self._store = FileStore(layout.incoming)
            files = Files(self._store)
            self._methods |= {
                "files.missing": files.missing,
                "files.put": files.put,
                "install.apply": self.apply,
                "install.remove": self.remove,
            }

    def serve(self, method: str, request: Request) -> Params:
        """See `Service.serve`."""
        known = self._methods.get(method)
        if known is None:
            raise RequestError("bad_request", f"this installer has no method {method[:100]!r}")
        self._count(1)
        try:
            return known(request)
        finally:
            self._count(-1)

    def idle_s(self) -> float:
        """Return for how many seconds nothing was asked and nothing is under way."""
        return 0.0 if self._under_way else time.monotonic() - self._last

    def forget(self, _: Session) -> None:
        """See `Service.forget`: what was begun is done to its end, though nobody hears of it."""
        with self._working:
            pass

    def look(self, request: Request) -> Params:
        """Serve `install.look`: the steps left to the target or, with `remove`, to nothing being there."""
        there = {
            "current": self._layout.target_of(self._layout.current),
            "trusted": self._trusted(),
            "unpacked": sorted(path.name for path in self._folders(self._layout.wheels)),
        }
        if request.params.get("remove") is True:
            steps = removal.steps(self._layout, purge=request.params.get("purge") is True)
        else:
            steps = self._steps(parse(request.params))
        return {**there, "steps": [step.what for step in steps]}

    def apply(self, request: Request) -> Params:
        """Serve `install.apply`: do the steps left; each is told before it begins."""
        target = parse(request.params)
        with self._working:
            tidy.remove(tidy.begun(self._layout))
            done = self._do(list(self._steps(target)), request)
            self._store.collect(())
        proof = self._proof
        return {
            "done": done,
            "runtimes": proof.runtimes if proof else {},
            "verifies": proof.verifies if proof else None,
        }

    def remove(self, request: Request) -> Params:
        """Serve `install.remove`."""
        with self._working:
            steps = list(removal.steps(self._layout, purge=request.params.get("purge") is True))
            return {"done": self._do(steps, request)}

    def _count(self, change: int) -> None:
        with self._counting:
            self._under_way += change
            self._last = time.monotonic()

    @staticmethod
    def _do(steps: list[Step], request: Request) -> list[str]:
        for number, step in enumerate(steps):
            request.tell({"step": step.what, "number": number, "of": len(steps)})
            step.do()
        return [step.what for step in steps]

    def _steps(self, target: Target) -> Iterator[Step]:
        """Yield what is left to be done, in its order."""
        layout = self._layout
        for wheel in target.wheels:
            if not (layout.wheels / wheel.folder).is_dir():
                yield Step(f"unpack {wheel.name} {wheel.version}", partial(self._unpack, wheel))
        if not (layout.trees / target.tree).is_dir():
            yield Step(f"put version {target.tree} together", partial(self._build, target))
        if layout.system:
            yield from self._system_steps(target)
        proven = switch.proven(layout) == target.tree and not layout.unproven.exists()
        if not proven:
            yield Step("try it: it must answer and load its runtimes", partial(self._prove, target))
        if _text(layout.wrapper) != wrapper.text(layout):
            what = f"install the command {layout.wrapper}"
            yield Step(what, lambda: service.write_text(layout.wrapper, wrapper.text(layout), 0o755))
        if not proven or (layout.system and not service.is_installed(layout, layout.trees / target.tree)):
            what = f"switch to version {target.tree}" if not proven else "start the service"
            yield Step(what, partial(switch.switch, layout, target.tree, target.version))
        after = [target.tree, *filter(None, [switch.proven(layout)])]
        if not proven or tidy.spare(layout, after):
            yield Step("remove what no version needs any more", lambda: tidy.remove(tidy.spare(layout)))

    def _system_steps(self, target: Target) -> Iterator[Step]:
        """Yield what the whole system needs: users, groups, settings."""
        layout = self._layout
        absent = accounts.missing()
        if absent:
            yield Step(f"make the users and groups {', '.join(absent)}", accounts.make)
        if target.operator is not None and accounts.lacking(target.operator):
            what = f"let {target.operator} operate the agent (groups {', '.join(accounts.OPERATOR_GROUPS)})"
            yield Step(what, partial(accounts.join, target.operator))
        hooks = layout.settings / "hooks"
        if not hooks.is_dir():
            yield Step(f"make the folder {hooks}", partial(make_folder, hooks, 0o755))
        if target.trust is not None and self._wants_trust(target):
            yield Step(
                f"install the trusted keys {layout.keys}", partial(write_json, layout.keys, target.trust)
            )

    def _wants_trust(self, target: Target) -> bool:
        there = _text(self._layout.keys)
        if there is None:
            return True
        if not target.replace_trust:
            return False
        try:
            return bool(json.loads(there) != target.trust)
        except ValueError:
            return True

    def _unpack(self, wheel: Wheel) -> None:
        make_folder(self._layout.wheels, 0o755)
        archive.unpack(self._store.path(wheel.sha256), self._layout.wheels / wheel.folder)
        self._store.drop(wheel.sha256)

    def _build(self, target: Target) -> None:
        make_folder(self._layout.trees, 0o755)
        tree.build(self._layout, target, self._package)

    def _prove(self, target: Target) -> None:
        self._proof = proving.prove(self._layout, target)
        tree.compile_all(self._layout, self._layout.trees / target.tree, self._proof.imported)

    def _trusted(self) -> Optional[list[str]]:
        """Return the ids of the keys that the board trusts; `None` if it has no such file."""
        if not self._layout.system or not self._layout.keys.exists():
            return None
        try:
            keys, revoked = read_keys(self._layout.keys)
        except RequestError:
            return []
        return sorted(set(keys) - revoked)

    @staticmethod
    def _folders(place: Path) -> Iterable[Any]:
        return [entry for entry in os.scandir(place) if entry.name[0] != "."] if place.is_dir() else []


def _text(path: Path) -> Optional[str]:
    """Return a file's text, or `None` if there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
