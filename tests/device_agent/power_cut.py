"""Builds every state in which a power cut may leave a disk, from a recording of what was done to it.

What counts as lasting is what POSIX promises and no more: a file's content, length and mode after fsync of the file,
the names in a folder after fsync of the folder. Before that, of a file there may be what was there when it was last
synced, nothing, half, zeros or all; of a folder's changes since its last fsync any number of the first ones, in each
folder independently of all others. Real file systems keep more than that, each a different part of it.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from disk_operations import Operation, Perform


@dataclass(eq=False)
class File:
    """One inode of content, whatever names it has."""

    saved: bytes = b""
    now: bytes = b""
    saved_mode: int = 0o644
    mode: int = 0o644

    @property
    def is_loose(self) -> bool:
        """Say whether a power cut may leave something else than what is there now."""
        return (self.saved, self.saved_mode) != (self.now, self.mode)


@dataclass(eq=False)
class Link:
    """A symbolic link; there is no moment at which it exists and says something else."""

    target: str


@dataclass(eq=False)
class Folder:
    """Names as they last were made durable, and the changes since, each of which happens whole or not at all."""

    saved: dict[str, Node] = field(default_factory=dict)
    pending: list[dict[str, Node | None]] = field(default_factory=list)

    def after(self, changes: int) -> dict[str, Node]:
        """Return the names with the first so many pending changes."""
        names: dict[str, Node | None] = dict(self.saved)
        for change in self.pending[:changes]:
            names.update(change)
        return {name: node for name, node in names.items() if node is not None}

    @property
    def now(self) -> dict[str, Node]:
        """Return the names as the running system sees them."""
        return self.after(len(self.pending))


Node = Union[File, Link, Folder]
Content = Callable[[File], tuple[bytes, int]]
Names = Callable[[Folder], int]


class Recorder:
    """An observer that keeps every operation that worked, and how many had been tried by then."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.tried: list[int] = []
        self._count = 0

    def __call__(self, operation: Operation, perform: Perform) -> Any:
        self._count += 1
        result = perform()
        self.operations.append(operation)
        self.tried.append(self._count)
        return result


class Disk:
    """A folder's disk while operations are played back.

    Args:
        root: the folder as it is, all of it durable.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._known: dict[int, File] = {}
        self.root = self._load(root)

    def play(self, operation: Operation) -> None:
        """Do one operation."""
        getattr(self, f"_{operation.kind}")(operation)

    def loose(self) -> tuple[list[Folder], list[File]]:
        """Return the folders and the files that a power cut may leave in more than one state."""
        nodes: list[Node] = []
        _gather(self.root, nodes)
        folders = [node for node in nodes if isinstance(node, Folder) and node.pending]
        return folders, [node for node in nodes if isinstance(node, File) and node.is_loose]

    # --- operations, named as their kinds -----------------------------------------------------------------

    def _create(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        node = folder.now.get(name)
        if node is None:
            folder.pending.append({name: File(saved_mode=operation.mode, mode=operation.mode)})
        elif operation.number:
            node.now = b""

    def _write(self, operation: Operation) -> None:
        file, at = self._node(operation.path), operation.number
        before = file.now[:at].ljust(at, b"\0")
        file.now = before + operation.data + file.now[at + len(operation.data) :]

    def _truncate(self, operation: Operation) -> None:
        file = self._node(operation.path)
        file.now = file.now[: operation.number].ljust(operation.number, b"\0")

    def _chmod(self, operation: Operation) -> None:
        node = self._node(operation.path)
        if isinstance(node, File):
            node.mode = operation.number

    def _fsync(self, operation: Operation) -> None:
        node = self._node(operation.path)
        if isinstance(node, Folder):
            node.saved, node.pending = node.now, []
        else:
            node.saved, node.saved_mode = node.now, node.mode

    def _rename(self, operation: Operation) -> None:
        origin, old = self._place(operation.source)
        target, new = self._place(operation.path)
        node = origin.now[old]
        if origin is target:
            origin.pending.append({old: None, new: node})
        else:
            target.pending.append({new: node})
            origin.pending.append({old: None})

    def _link(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        folder.pending.append({name: self._node(operation.source)})

    def _symlink(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        folder.pending.append({name: Link(operation.source)})

    def _unlink(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        folder.pending.append({name: None})

    _rmdir = _unlink

    def _mkdir(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        folder.pending.append({name: Folder()})

    def _utime(self, operation: Operation) -> None:
        """Times are no matter of life and death."""

    # --- how ----------------------------------------------------------------------------------------------

    def _load(self, path: Path) -> Node:
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            return Link(str(path.readlink()))
        if stat.S_ISDIR(facts.st_mode):
            return Folder({entry.name: self._load(entry) for entry in path.iterdir()})
        data, mode = path.read_bytes(), stat.S_IMODE(facts.st_mode)
        return self._known.setdefault(facts.st_ino, File(data, data, mode, mode))

    def _place(self, path: str) -> tuple[Folder, str]:
        head, _, name = path.rpartition("/")
        return self._node(head), name

    def _node(self, path: str) -> Any:
        node = self.root
        for name in path[len(self._root) :].split("/"):
            node = node.now[name] if name else node
        return node


def cuts(disk: Disk, dice: random.Random, samples: int) -> Iterator[tuple[Names, Content]]:
    """Yield what may have lasted if the power goes now: the plain cases one by one, then random mixtures."""
    folders, files = disk.loose()
    for names in (_no_names, all_names):
        for content in CONTENTS:
            yield names, content
            if not files:
                break
    for one in folders:
        for count in range(len(one.pending) + 1):
            for others in (_no_names, all_names):
                yield _one_differs(one, count, others), _as_saved
    for _ in range(samples if folders or files else 0):
        counts = {id(folder): dice.randint(0, len(folder.pending)) for folder in folders}
        chosen = {id(file): dice.choice(CONTENTS) for file in files}
        yield (
            lambda folder, counts=counts: counts.get(id(folder), 0),
            lambda file, chosen=chosen: chosen.get(id(file), _as_saved)(file),
        )


def signature(folder: Folder, names: Names, content: Content) -> bytes:
    """Return what stands for one state, equal for equal ones."""
    digest = hashlib.sha256()
    for name, node in sorted(folder.after(names(folder)).items()):
        if isinstance(node, Folder):
            inner = signature(node, names, content)
        elif isinstance(node, Link):
            inner = node.target.encode()
        else:
            data, mode = content(node)
            inner = hashlib.sha256(data).digest() + mode.to_bytes(4, "big")
        digest.update(f"{name}/{type(node).__name__}/{inner.hex()}\n".encode())
    return digest.digest()


def states(
    disk: Disk, recorder: Recorder, dice: random.Random, samples: int, share: float
) -> Iterator[tuple[int, Names, Content]]:
    """Play a recording; yield after how many operations the power is cut and what lasted, each state once.

    Args:
        disk: as it was before.
        recorder: what was done then.
        dice: for mixtures, and for the choice of states.
        samples: how many mixtures an operation.
        share: of all states, how many are wanted.
    """
    seen: set[tuple[bytes, bool]] = set()
    for step in range(len(recorder.operations) + 1):
        if step:
            disk.play(recorder.operations[step - 1])
        for names, content in cuts(disk, dice, samples):
            if dice.random() >= share:
                continue
            state = (signature(disk.root, names, content), step == len(recorder.operations))
            if state not in seen:
                seen.add(state)
                yield step, names, content


def materialise(folder: Folder, place: Path, names: Names, content: Content) -> None:
    """Write one state to a place; what was there goes."""
    shutil.rmtree(place, ignore_errors=True)
    _write_folder(folder, place, names, content, {})


def _write_folder(
    folder: Folder, place: Path, names: Names, content: Content, written: dict[int, Path]
) -> None:
    place.mkdir()
    for name, node in folder.after(names(folder)).items():
        path = place / name
        if isinstance(node, Folder):
            _write_folder(node, path, names, content, written)
        elif isinstance(node, Link):
            path.symlink_to(node.target)
        elif id(node) in written:
            path.hardlink_to(written[id(node)])
        else:
            data, mode = content(node)
            path.write_bytes(data)
            path.chmod(mode)
            written[id(node)] = path


def _gather(node: Node, found: list[Node]) -> None:
    """Collect everything that has a name in any state."""
    if node in found:
        return
    found.append(node)
    if isinstance(node, Folder):
        for names in (node.saved, *node.pending):
            for each in names.values():
                if each is not None:
                    _gather(each, found)


def _no_names(_: Folder) -> int:
    return 0


def all_names(folder: Folder) -> int:
    return len(folder.pending)


def _one_differs(one: Folder, count: int, others: Names) -> Names:
    return lambda folder: count if folder is one else others(folder)


def _as_saved(file: File) -> tuple[bytes, int]:
    return file.saved, file.saved_mode


def as_now(file: File) -> tuple[bytes, int]:
    return file.now, file.mode


def _empty(file: File) -> tuple[bytes, int]:
    return (b"" if file.now != file.saved else file.now), file.saved_mode


def _half(file: File) -> tuple[bytes, int]:
    return (file.now[: len(file.now) // 2] if file.now != file.saved else file.now), file.mode


def _zeros(file: File) -> tuple[bytes, int]:
    return (b"\0" * len(file.now) if file.now != file.saved else file.now), file.mode


CONTENTS: tuple[Content, ...] = (_as_saved, as_now, _empty, _half, _zeros)
