"""Tries what a version brings, in a process of its own: `python -m device_agent.install.trial NAME FOLDER`.

NAME is a runtime, which loads and runs a tiny model (to import it is not enough: tflite-runtime does so with a numpy
that it cannot work with), or `signatures`. The process is confined as a worker is, to FOLDER. The answer is one JSON
object: the version, and the files imported.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

from device_agent.errors import RequestError
from device_agent.work import confine

SIGNATURES = "signatures"

_MODELS = {  # x + x, and x + 1
    "onnxruntime": "CAcSADo1Cg4KAXgKAXgSAXkiA0FkZBIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0=",
    "tflite": """
        GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAA0AAAAOAEAAAMAAAACAAAAIAAAAAwAAAAAAAYACAAEAAYAAAAEAAAABAAAAAAAgD/s
        /v//AQAAABAAAAAMABQAEAAMAAgABAAMAAAAEAAAAFAAAABUAAAAWAAAAAEAAAAUAAAAAAAOABQAAAAQAAwACwAEAA4AAAAQAAAAAAAACwwA
        AAAQAAAARP///wEAAAACAAAAAgAAAAAAAAABAAAAAQAAAAIAAAABAAAAAAAAAAMAAABoAAAANAAAAAQAAACw////CAAAAAwAAAABAAAAeQAA
        AAIAAAABAAAAAQAAAAwAEAAMAAAACAAEAAwAAAAMAAAAAQAAAAwAAAADAAAAb25lAAIAAAABAAAAAQAAAAwADAAIAAAAAAAEAAwAAAAIAAAA
        DAAAAAEAAAB4AAAAAgAAAAEAAAABAAAAAQAAAAgAAAAEAAQABAAAAA==""",
}
_ANSWERS = {"onnxruntime": 3.0, "tflite": 2.5}  # to 1.5
# the first test of RFC 8032, 7.1: a key, and its signature of nothing
_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
_SIGNATURE = (
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246551"
    "41438e7a100b"
)


def run(name: str, scratch: Path) -> dict[str, Any]:
    """Return version and modules.

    Raises:
        RequestError: it does not work here.
    """
    confine.confine(os.getuid(), (), scratch)
    version = _verify() if name == SIGNATURES else _infer(name, scratch)
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return {"ok": True, "version": version, "modules": sorted(file for file in files if file)}


def _infer(name: str, scratch: Path) -> str:
    from device_agent.measure import runtimes  # noqa: PLC0415 - these import numpy

    runtime = runtimes.open_runtime(name)
    import numpy as np  # noqa: PLC0415

    path = scratch / "model"
    path.write_bytes(base64.b64decode(_MODELS[name]))
    session = runtimes.load(runtime, path, 1)
    answer = float(session.run([np.full(session.inputs[0].shape, 1.5, np.float32)])[0].reshape(-1)[0])
    if answer != _ANSWERS[name]:
        raise RequestError("model_refused", f"{name} answers {answer} where {_ANSWERS[name]} is right")
    return runtime.version


def _verify() -> str:
    import cryptography  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    Ed25519PublicKey.from_public_bytes(bytes.fromhex(_KEY)).verify(bytes.fromhex(_SIGNATURE), b"")
    return str(cryptography.__version__)


def main(name: str, folder: str) -> int:
    """Print what was found as JSON."""
    try:
        found = run(name, Path(folder))
    except Exception as error:  # noqa: BLE001 - whatever a package raises, the installer is to hear it
        found = {"ok": False, "why": getattr(error, "message", None) or repr(error)[:500]}
    print(json.dumps(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
