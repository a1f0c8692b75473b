"""One answer of the active model, for a quick try on the board; needs numpy and the model's runtime."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from device_agent.active import ActiveModel, active_model
from device_agent.errors import RequestError

_SHOWN = 5


def predict(state: Path, source: Optional[Path]) -> dict[str, Any]:
    """Run the active model once.

    Args:
        state: the agent's state folder.
        source: an array file (.npy) as the model takes it; `None`: the bundle's golden input.

    Returns:
        bundle, runtime, load_ms, first_ms, outputs (nested lists), and top: the best labels of a classifier
        as (label, score), empty for any other model.

    Raises:
        RequestError: `no_model`, `bad_input`, `model_refused`, `runtime_missing`.
    """
    from device_agent.measure import runtimes  # noqa: PLC0415 - these import numpy

    model = active_model(state)
    if model is None:
        raise RequestError(
            "no_model", f"no model is active in {state}", "deploy one, or name the folder by --state"
        )
    settings = model.manifest["model"]
    array = _load(source or model.folder / model.manifest["golden"]["inputs"][0])
    runtime = runtimes.open_runtime(settings["runtime"])
    begin = time.perf_counter()
    session = runtimes.load(runtime, model.path, settings["threads"])
    loaded = time.perf_counter()
    fitted = _fit(array, session.inputs[0])
    try:
        outputs = session.run([fitted])
    except Exception as error:
        raise runtimes.refused(error) from error
    done = time.perf_counter()
    return {
        "bundle": model.bundle,
        "runtime": settings["runtime"],
        "load_ms": (loaded - begin) * 1e3,
        "first_ms": (done - loaded) * 1e3,
        "outputs": [output.tolist() for output in outputs],
        "top": _top(outputs[0], model),
    }


def as_text(found: Mapping[str, Any]) -> str:
    """Return an answer as a few lines for people."""
    lines = [f"bundle {found['bundle'][:12]}, first answer after {found['first_ms']:.2f} ms"]
    lines += [f"  {score:9.4f}  {label}" for label, score in found["top"]]
    return "\n".join(lines if found["top"] else [*lines, f"  {str(found['outputs'])[:500]}"])


def _load(path: Path) -> Any:
    import numpy as np  # noqa: PLC0415

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(
            "bad_input", f"{path} is not an array file: {str(error)[:200]}", "numpy.save writes one"
        ) from error


def _fit(array: Any, spec: Any) -> Any:
    """Bring an array to the model's type; a missing batch dimension of one is put in front."""
    if array.shape == spec.shape[1:] and spec.shape[0] == 1:
        array = array[None]
    if array.shape != spec.shape:
        raise RequestError(
            "bad_input", f"the array's shape is {list(array.shape)}, the model takes {list(spec.shape)}"
        )
    return array.astype(spec.dtype)


def _top(output: Any, model: ActiveModel) -> list[tuple[str, float]]:
    labels = (model.manifest.get("io") or {}).get("labels")
    scores = output.reshape(-1)
    if not labels or len(labels) != scores.size:
        return []
    best = scores.argsort()[::-1][:_SHOWN]
    return [(labels[index], float(scores[index])) for index in best]
