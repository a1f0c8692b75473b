"""The methods `files.*`: uploads, and making room."""

from __future__ import annotations

from device_agent import errors
from device_agent.errors import RequestError
from device_agent.serve.request import Params, Request
from device_agent.updates.store import PURPOSES, FileStore


class Files:
    """Serves a file store."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def missing(self, request: Request) -> Params:
        """Serve `files.missing`: which of these files are to be sent, and from which offset on."""
        files = request.params.get("files")
        if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
            raise RequestError("bad_request", "parameter 'files' is not a list of objects")
        purpose = _purpose(request.params)
        wanted = [(errors.sha256_of(file, "sha256"), errors.integer(file, "size")) for file in files]
        self._store.expect(sha256 for sha256, _ in wanted)
        absent = [(sha256, size) for sha256, size in wanted if not self._store.has(sha256, purpose)]
        return {"missing": [{"sha256": s, "offset": self._store.offset(s, size)} for s, size in absent]}

    def put(self, request: Request) -> Params:
        """Serve `files.put`: one chunk of one file."""
        params = request.params
        sha256 = errors.sha256_of(params, "sha256")
        size, offset = errors.integer(params, "size"), errors.integer(params, "offset")
        return {"received": self._store.put(sha256, size, offset, request.payload, _purpose(params))}

    def collect(self, request: Request) -> Params:
        """Serve `files.collect`: remove what neither the request nor a bundle needs."""
        removed, freed = self._store.collect(errors.sha256_list(request.params, "keep"))
        return {"removed": removed, "freed_bytes": freed}


def _purpose(params: Params) -> str:
    purpose = params.get("purpose", "bundle")
    if purpose not in PURPOSES:
        raise RequestError("bad_request", f"parameter 'purpose' is none of {', '.join(PURPOSES)}")
    return str(purpose)
