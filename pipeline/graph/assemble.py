"""From coupled units to pruning groups: those that touch the same dimensions alike belong together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pipeline.graph.flow import Claim, Flow, layer_name
from pipeline.graph.groups import FrozenDimension, Member, PruningGroup
from pipeline.graph.units import FIXED, Ids

Place = tuple[str, int]  # a parameter and one of its dimensions


@dataclass(frozen=True)
class Grouping:
    """The groups found, what is frozen, and for the root of every unit in a group that group's name."""

    groups: tuple[PruningGroup, ...]
    frozen: tuple[FrozenDimension, ...]
    group_of: dict[int, str]


@dataclass
class _Family:
    """Units with the same signature; `reason` is set where they are frozen."""

    counts: tuple[tuple[Place, int], ...]
    reason: str | None
    roots: list[int]


def assemble(flow: Flow) -> Grouping:
    """Return the groups in order of execution; the same flow always gives the same names and order."""
    touches = _touches(flow)
    families = _families(flow, touches)
    _freeze_parted_outputs(flow, families)
    groups, frozen, group_of = [], [FrozenDimension(*note) for note in flow.notes], {}
    for family in _families(flow, touches):
        producers = _layers(flow, family, "out")
        if not producers:
            continue
        if family.reason is not None or len(family.roots) < 2:
            reason = family.reason or "its channels hang together: only all could go"
            frozen.append(FrozenDimension(producers[0], reason))
            continue
        consumers = _layers(flow, family, "in")
        members = tuple(_member(flow, place, family, touches) for place, _ in family.counts)
        groups.append(PruningGroup(producers[0], len(family.roots), producers, consumers, members))
        group_of.update(dict.fromkeys(family.roots, producers[0]))
    return Grouping(tuple(groups), tuple(dict.fromkeys(frozen)), group_of)


def _claim(flow: Flow, place: Place) -> Claim:
    return flow.claims[place][0]


def _touches(flow: Flow) -> dict[int, dict[Place, list[int]]]:
    """Return for every unit the entries that it has along every claimed dimension."""
    touches: dict[int, dict[Place, list[int]]] = {}
    for place, claims in flow.claims.items():
        if claims[0].ids is None:
            continue
        for index, root in enumerate(flow.units.roots(claims[0].ids).tolist()):
            if root != FIXED:
                touches.setdefault(root, {}).setdefault(place, []).append(index)
    return touches


def _families(flow: Flow, touches: dict[int, dict[Place, list[int]]]) -> list[_Family]:
    reasons = flow.units.reasons()
    families: dict[object, _Family] = {}
    for root, places in touches.items():
        counts = tuple((place, len(indices)) for place, indices in places.items())
        reason = reasons.get(root)
        families.setdefault((counts, reason), _Family(counts, reason, [])).roots.append(root)
    return list(families.values())


def _freeze_parted_outputs(flow: Flow, families: list[_Family]) -> None:
    """Freeze layers whose outputs fall into several groups: one layer has one width to choose."""
    parts = Counter(
        place
        for family in families
        if family.reason is None
        for place, _ in family.counts
        if _claim(flow, place).role == "out"
    )
    for family in families:
        for place, _ in family.counts:
            if family.reason is None and parts[place] > 1:
                reason = f"different parts of the outputs of {layer_name(place[0])} are used differently"
                flow.units.freeze(np.asarray(family.roots), reason)
                break


def _layers(flow: Flow, family: _Family, role: str) -> tuple[str, ...]:
    claims = (_claim(flow, place) for place, _ in family.counts)
    return tuple(dict.fromkeys(claim.layer for claim in claims if claim.role == role))


def _member(flow: Flow, place: Place, family: _Family, touches: dict[int, dict[Place, list[int]]]) -> Member:
    indices = tuple(tuple(touches[root][place]) for root in family.roots)
    claim = _claim(flow, place)
    size = 0 if claim.ids is None else len(claim.ids)
    return Member(place[0], place[1], size, indices, claim.role)


def count_groups(flow: Flow, grouping: Grouping, ids: Ids | None) -> Counter[str]:
    """Return how many entries of a dimension belong to each group, in order of appearance."""
    if ids is None:
        return Counter()
    names = (grouping.group_of.get(root) for root in flow.units.roots(ids).tolist())
    return Counter(name for name in names if name is not None)
