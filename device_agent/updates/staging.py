"""Puts a bundle together on the board from uploaded files, every byte verified, complete or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from device_agent.durable import make_folder, remove_tree, sync_file, sync_folder, write_json
from device_agent.errors import RequestError
from device_agent.updates import manifest
from device_agent.updates.digest import digest_of, digest_of_bytes
from device_agent.updates.store import FileStore


def gather(
    folder: Path,
    store: FileStore,
    digest: str,
    contents: manifest.Manifest,
    signatures: Sequence[Any],
    active: bool,
) -> None:
    """Make `bundles/<digest>` from verified files: complete under a temporary name, then renamed.

    Args:
        folder: the update's folder.
        store: where the files are.
        digest: the manifest's.
        contents: the manifest.
        signatures: written beside it, for whoever wants to know later who signed.
        active: the bundle is in use; then it stays, and only those of its files that are spoiled are replaced.

    Raises:
        RequestError: `bad_manifest` (another size), `bad_digest`.
        OSError: the disk is full or fails.
    """
    final = folder / "bundles" / digest
    partial = folder / "bundles" / f".{digest}.new"
    remove_tree(partial)
    make_folder(partial, 0o755)
    parts = {manifest.FILE: digest, **{name: file.sha256 for name, file in contents.files.items()}}
    for name, sha256 in parts.items():
        target = partial / name
        for inner in reversed([each for each in target.parents if each.is_relative_to(partial)]):
            make_folder(inner, 0o755)
        _link_or_copy(store.path(sha256), target)
        _verify(target, sha256, contents.files.get(name), store)
    if signatures:
        write_json(partial / manifest.SIGNATURES, {"signatures": list(signatures)})
    folders = {folder for name in parts for folder in (partial / name).parents}
    for inner in sorted(folder for folder in folders if folder.is_relative_to(partial)):
        sync_folder(inner)
    if active:
        for name in spoiled_files(final):
            os.replace(partial / name, final / name)  # noqa: PTH105
            sync_folder((final / name).parent)
        remove_tree(partial)
    else:
        remove_tree(final)
        os.replace(partial, final)  # noqa: PTH105
    sync_folder(final.parent)


def spoiled_files(folder: Path) -> dict[str, str]:
    """Return the files of a bundle whose bytes are not those that its digest stands for: digests by name."""
    try:
        data = read_manifest(folder / manifest.FILE)
        contents = manifest.parse(data)
    except (RequestError, OSError):
        return {manifest.FILE: folder.name}
    found = {manifest.FILE: folder.name, **{name: file.sha256 for name, file in contents.files.items()}}
    return {name: sha256 for name, sha256 in found.items() if not _whole(folder / name, sha256)}


def read_signatures(folder: Path) -> list[Any]:
    """Return the signatures that a bundle was staged with."""
    try:
        return list(json.loads((folder / manifest.SIGNATURES).read_bytes())["signatures"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def stored_manifest(store: FileStore, digest: str) -> manifest.Manifest:
    """Return an uploaded manifest; one that the disk spoiled is dropped, to be sent again.

    Raises:
        RequestError: `unknown_file`, `bad_digest`, `bad_manifest`.
    """
    data = read_manifest(store.path(digest))
    if len(data) <= manifest.MAX_BYTES and digest_of_bytes(data) != digest:
        store.drop(digest)
        raise RequestError("bad_digest", "the manifest is not what was sent; the board's disk may be failing")
    return manifest.parse(data)


def agent_version(folder: Path) -> str:
    """Return the version of the agent in a bundle's folder.

    Raises:
        RequestError: `bad_manifest`.
        OSError: the manifest cannot be read.
    """
    contents = manifest.parse(read_manifest(folder / manifest.FILE))
    return contents.agent_version or ""


def read_manifest(path: Path) -> bytes:
    """Return a manifest's bytes, at most one more than a manifest may have."""
    with path.open("rb") as stream:
        return stream.read(manifest.MAX_BYTES + 1)


def _whole(path: Path, sha256: str) -> bool:
    try:
        return digest_of(path) == sha256
    except OSError:
        return False


def _verify(path: Path, sha256: str, named: Any, store: FileStore) -> None:
    if digest_of(path) != sha256:
        store.drop(sha256)
        raise RequestError(
            "bad_digest",
            f"{path.name} is not what was sent; the board's disk may be failing",
            "send it again",
        )
    if named is not None and path.stat().st_size != named.size:
        raise RequestError("bad_manifest", f"{path.name} is to have {named.size} bytes and has another size")


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link, or copy durably on a file system without hard links."""
    try:
        os.link(source, target)
    except PermissionError:
        target.write_bytes(source.read_bytes())
        target.chmod(0o444)
        sync_file(target)
