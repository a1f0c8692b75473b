"""Tables and a summary of a zoo run: zoo.csv with everything, zoo.md for people."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]
WANTED_CUT = 0.5


@dataclass(frozen=True)
class Row:
    """A model's newest results in both columns; None where a column was not measured."""

    model: str
    ours: Record | None
    theirs: Record | None

    @property
    def passed(self) -> bool:
        return self.ours is not None and bool(self.ours["ok"])

    @property
    def slower(self) -> bool:
        """Whether ours took longer than theirs; they count where they finished pruning, right or wrong."""
        ours, theirs = _seconds(self.ours), _seconds(self.theirs)
        return ours is not None and theirs is not None and ours > theirs


def write(folder: Path, results: Iterable[Record]) -> str:
    """Write zoo.csv and zoo.md into `folder`; return the summary."""
    rows = _rows(results)
    with (folder / "zoo.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(COLUMNS))
        table.writeheader()
        table.writerows({name: fill(row) for name, fill in COLUMNS.items()} for row in rows)
    text = summary(rows)
    (folder / "zoo.md").write_text(text + "\n" + markdown(rows))
    return text


def _rows(results: Iterable[Record]) -> list[Row]:
    newest: dict[tuple[str, str], Record] = {(one["model"], one["column"]): one for one in results}
    order = {"torchvision": 0, "timm": 1, "other": 2}
    models = sorted({model for model, _ in newest}, key=lambda one: (order.get(one.split("/")[0], 3), one))
    return [Row(one, newest.get((one, "ours")), newest.get((one, "torch-pruning"))) for one in models]


def cut(record: Record | None) -> float | None:
    """Return the share of the parameters that went; None where nothing came out."""
    if record is None or "parameters_after" not in record:
        return None
    return 1.0 - float(record["parameters_after"]) / float(record["parameters_before"])


def _seconds(record: Record | None) -> float | None:
    return float(record["seconds"]) if record is not None and "parameters_after" in record else None


def fault(record: Record | None) -> str:
    """Return why a record failed, on one line; nothing where it passed."""
    if record is None or record["ok"]:
        return ""
    faults = record.get("faults") or {record.get("stage"): record.get("error")}
    return " ".join("; ".join(f"{stage}: {why}" for stage, why in faults.items()).split())


def _check(kind: str) -> Callable[[Row], Any]:
    return lambda row: (row.ours or {}).get("checks", {}).get(kind)


def _ours(field: str) -> Callable[[Row], Any]:
    return lambda row: (row.ours or {}).get(field)


COLUMNS: dict[str, Callable[[Row], Any]] = {
    "model": lambda row: row.model,
    "parameters": lambda row: (row.ours or row.theirs or {}).get("parameters_before"),
    "ours_passed": lambda row: row.passed if row.ours else None,
    "ours_cut": lambda row: cut(row.ours),
    "ours_seconds_beyond_export": lambda row: _seconds(row.ours),
    "export_seconds": _ours("export_seconds"),
    "trace_seconds": lambda row: (row.ours or {}).get("parts", {}).get("trace"),
    "plan_seconds": lambda row: (row.ours or {}).get("parts", {}).get("plan"),
    "slim_seconds": lambda row: (row.ours or {}).get("parts", {}).get("slim"),
    "form": _ours("form"),
    "groups": _ours("groups"),
    "frozen": _ours("frozen"),
    "exact_error": _check("exact"),
    "train": _check("train"),
    "onnx": _check("onnx"),
    "peak_mib": _ours("peak_mib"),
    "image_size": _ours("image_size"),
    "revision": _ours("revision"),
    "ours_fault": lambda row: fault(row.ours),
    "theirs_passed": lambda row: bool(row.theirs["ok"]) if row.theirs else None,
    "theirs_cut": lambda row: cut(row.theirs),
    "theirs_seconds": lambda row: _seconds(row.theirs),
    "theirs_fault": lambda row: fault(row.theirs),
    "slower_than_theirs": lambda row: row.slower,
}


def markdown(rows: list[Row]) -> str:
    """Return the table: a line a model, ours left, theirs right."""
    lines = [
        "| model | parameters | cut | s beyond export | export s | exact | ONNX | form | Torch-Pruning: cut | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_line, rows)]) + "\n"


def _line(row: Row) -> str:
    size = COLUMNS["parameters"](row)
    exact, onnx = _check("exact")(row), _check("onnx")(row)
    cells = [
        row.model,
        f"{size / 1e6:.2f} M" if size else "",
        _percent(cut(row.ours)),
        _number(_seconds(row.ours)),
        _number(COLUMNS["export_seconds"](row)),
        f"{exact:.0e}" if isinstance(exact, float) else _brief(row.ours, "exact"),
        f"{onnx[1]:.0e}" if isinstance(onnx, list | tuple) else onnx or _brief(row.ours, "onnx"),
        COLUMNS["form"](row) or "",
        _percent(cut(row.theirs)) if row.theirs and row.theirs["ok"] else _outcome(row.theirs),
        _number(_seconds(row.theirs)),
    ]
    return "| " + " | ".join(cells) + " |"


def _brief(record: Record | None, kind: str) -> str:
    if record is None:
        return ""
    stage = record.get("stage") if "error" in record else None
    return f"**fails in {stage}**" if stage else "**fails**" if kind in record.get("faults", {}) else ""


def _outcome(record: Record | None) -> str:
    """Return in which stage the other column ended."""
    return "" if record is None else "no result in time" if _hung(record) else f"fails in {record['stage']}"


def _hung(record: Record) -> bool:
    return str(record.get("error", "")).startswith("not done within")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def summary(rows: list[Row]) -> str:
    """Return the whole run in a few lines, failures by name and reason."""
    ours = [row for row in rows if row.ours is not None]
    lines = [_passed(kind, [row for row in ours if row.model.startswith(kind)]) for kind in _COLLECTIONS]
    lines += [_cuts(ours), _speed(ours), _theirs(rows), *_exceptions(ours)]
    revisions = sorted({str(row.ours["revision"]) for row in ours if row.ours})
    lines.append(f"- source of ours: {', '.join(revisions)}" + " (mixed)" * (len(revisions) > 1))
    return "\n".join(line for line in lines if line) + "\n"


_COLLECTIONS = {"": "all", "torchvision/": "torchvision", "timm/": "timm", "other/": "no image classifiers"}


def _passed(kind: str, rows: list[Row]) -> str:
    good = sum(row.passed for row in rows)
    return f"- {_COLLECTIONS[kind]}: {good} of {len(rows)} pass ({good / len(rows):.1%})" if rows else ""


def _cuts(rows: list[Row]) -> str:
    cuts = {row.model: one for row in rows if (one := cut(row.ours)) is not None}
    if not cuts:
        return ""
    least = min(cuts, key=lambda name: cuts[name])
    short = [f"{name} {one:.0%}" for name, one in sorted(cuts.items()) if one < WANTED_CUT]
    text = f"- parameters cut: median {median(cuts.values()):.1%}, least {cuts[least]:.1%} ({least})"
    return text + (f"; below {WANTED_CUT:.0%} on {len(short)}: {', '.join(short)}" if short else "")


def _speed(rows: list[Row]) -> str:
    times = {row.model: one for row in rows if (one := _seconds(row.ours)) is not None}
    if not times:
        return ""
    most = max(times, key=lambda name: times[name])
    text = f"- seconds beyond export: median {median(times.values()):.2f}, most {times[most]:.2f} ({most})"
    slower = [
        f"{row.model} ({_seconds(row.ours):.2f} against {_seconds(row.theirs):.2f})"
        for row in rows
        if row.slower
    ]
    return (
        text + f"; slower than Torch-Pruning on {len(slower)}" + (": " if slower else "") + ", ".join(slower)
    )


def _theirs(rows: list[Row]) -> str:
    theirs = [row.theirs for row in rows if row.theirs is not None]
    good = sum(bool(one["ok"]) for one in theirs)
    times = [one for record in theirs if (one := _seconds(record)) is not None]
    if not theirs or not times:
        return ""
    return (
        f"- Torch-Pruning: {good} of {len(theirs)} run after pruning ({good / len(theirs):.1%}), "
        f"{sum(map(_hung, theirs))} not done in time; seconds: median {median(times):.2f}, most {max(times):.2f}"
    )


def _exceptions(rows: list[Row]) -> list[str]:
    """Name what failed, what came out as a graph module, and what ONNX cannot hold even at full width."""
    failed = [f"  - {row.model}: {fault(row.ours)[:300]}" for row in rows if not row.passed]
    graphs = [row.model for row in rows if _ours("form")(row) == "graph"]
    unexported = [row.model for row in rows if isinstance(_check("onnx")(row), str)]
    return [
        f"- graph form: {len(graphs)}" + (": " if graphs else "") + ", ".join(graphs),
        f"- ONNX fails at full width too (not counted): {', '.join(unexported)}" if unexported else "",
        f"- failed: {len(failed)}",
        *failed,
    ]
