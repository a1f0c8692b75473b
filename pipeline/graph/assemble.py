"""From coupled units to pruning groups: those that touch the same dimensions alike belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from torch import fx

from pipeline.graph.flow import Flow, Role, describe_place, layer_name, shape_of
from pipeline.graph.groups import FrozenDimension, Granularity, Member, PruningGroup
from pipeline.graph.units import FIXED, Ids, Units

Place = tuple[str, int]  # a parameter and one of its dimensions
_ALONE = "its channels hang together: only all could go"


@dataclass(frozen=True)
class Grouping:
    """The groups found, what is frozen, and for each group the atoms that stand for its units, in order.

    `number_of` holds for every atom the number of its group, -1 for none; the last slot is that of `FIXED`.
    """

    groups: tuple[PruningGroup, ...]
    frozen: tuple[FrozenDimension, ...]
    atoms: Mapping[str, Ids]
    number_of: Ids
    counts: dict[int, Counter[str]] = field(default_factory=dict, compare=False)

    def only(self, names: Collection[str]) -> Grouping:
        """Return the same with no other groups than these."""
        atoms = {name: ids for name, ids in self.atoms.items() if name in names}
        groups = tuple(group for group in self.groups if group.name in names)
        return Grouping(groups, self.frozen, atoms, _numbers(atoms, len(self.number_of)))

    def count(self, units: Units, ids: Ids | None) -> Counter[str]:
        """Return how many entries of a dimension belong to each group, in order of appearance."""
        if ids is None:
            return Counter()
        if id(ids) not in self.counts:  # the labels live as long as what was propagated
            numbers = self.number_of[units.expand(ids)].reshape(-1)
            counts = np.bincount(numbers + 1)
            found = sorted(
                (int(np.argmax(numbers == number)), number) for number in np.flatnonzero(counts[1:]).tolist()
            )
            names = list(self.atoms)
            self.counts[id(ids)] = Counter({names[number]: int(counts[number + 1]) for _, number in found})
        return self.counts[id(ids)]


def _numbers(atoms: Mapping[str, Ids], size: int) -> Ids:
    numbers = np.full(size, -1, dtype=np.int64)
    for number, ids in enumerate(atoms.values()):
        numbers[ids] = number
    return numbers


@dataclass(frozen=True)
class _Uses:
    """Every pair of an atom and an entry of a parameter's dimension that it decides on, sorted by atom.

    `roles` holds for every place the layers that use it, by role.
    """

    places: list[Place]
    sizes: list[int]
    roles: list[dict[Role, list[str]]]
    atom: Ids
    place: Ids
    index: Ids


@dataclass
class _Family:
    """Atoms with the same uses; `reason` is set where they are frozen."""

    number: int
    atoms: Ids
    reason: str | None
    members: list[tuple[int, Ids]]  # place, indices (atoms, repeat)
    layers: dict[Role, list[str]]
    is_head: bool
    neighbours: set[int]


def assemble(flow: Flow) -> Grouping:
    """Return the groups in order of execution; the same flow always gives the same names and order."""
    labels = {place: ids for place, ids in flow.labels.items() if ids is not None}
    whole = flow.units.expand(np.concatenate([*labels.values(), np.zeros(0, dtype=np.int64)]))
    sizes = np.array([len(ids) for ids in labels.values()], dtype=np.int64)
    expanded = dict(zip(labels, _parts(whole, sizes), strict=True))
    uses = _uses(whole, sizes, list(labels), _roles(flow, expanded))
    families = _families(flow, uses, expanded)
    chosen = {each.number: each for each in families if each.reason is None and len(each.atoms) > 1}
    within = _primaries(chosen)
    names = _names(chosen, within)
    groups, atoms = [], {}
    for number, name in names.items():
        family = chosen[number]
        groups.append(_group(uses, family, name, within[number], names, chosen))
        atoms[name] = family.atoms
    frozen = [FrozenDimension(*note) for note in flow.notes]
    for family in families:
        parted = any(other in chosen for other in family.neighbours)  # the other axis of a grid can go
        if family.number not in chosen and not parted:
            frozen.append(FrozenDimension(family.layers["out"][0], family.reason or _ALONE))
    numbers = _numbers(atoms, len(flow.units) + 1)
    return Grouping(tuple(groups), tuple(dict.fromkeys(frozen)), atoms, numbers)


# --- uses ---


def _parts(whole: Ids, sizes: Ids) -> list[Ids]:
    """Cut what was expanded at once into places again, each as wide as its own entries need."""
    if not len(sizes):
        return []
    ends = np.cumsum(sizes)
    widest = np.maximum.reduceat((whole != FIXED).sum(1), ends - sizes).tolist()
    bounds = zip((ends - sizes).tolist(), ends.tolist(), widest, strict=True)
    return [whole[start:end, : max(1, width)] for start, end, width in bounds]


def _uses(whole: Ids, sizes: Ids, places: list[Place], roles: Mapping[Place, dict[Role, list[str]]]) -> _Uses:
    """Number the places: those that layers use first, in order of execution."""
    known = set(places)
    order = [place for place in roles if place in known] + [place for place in places if place not in roles]
    number_of = {place: number for number, place in enumerate(order)}
    size_of = dict(zip(places, sizes.tolist(), strict=True))
    rows, columns = np.nonzero(whole != FIXED)
    numbers = np.array([number_of[place] for place in places], dtype=np.int64)
    where = np.repeat(numbers, sizes)[rows]
    index = (np.arange(len(whole)) - np.repeat(np.cumsum(sizes) - sizes, sizes))[rows]
    atom = whole[rows, columns]
    by_atom = np.lexsort((index, where, atom))
    return _Uses(
        order,
        [size_of[place] for place in order],
        [roles.get(place, {}) for place in order],
        atom[by_atom],
        where[by_atom],
        index[by_atom],
    )


def _roles(flow: Flow, expanded: Mapping[Place, Ids]) -> dict[Place, dict[Role, list[str]]]:
    """Return the layers that use each dimension of a parameter, by role, in order of execution."""
    roles: dict[Place, dict[Role, list[str]]] = {}
    for place, claims in flow.claims.items():
        for claim in claims:
            roles.setdefault(place, {}).setdefault(claim.role, []).append(claim.layer)
    for computed in flow.computed:
        wanted = np.unique(flow.units.expand(computed.ids))
        wanted = wanted[wanted != FIXED]
        for place in _sources(flow, computed.weight):
            if place in expanded and np.isin(expanded[place][:, 0], wanted).all():
                layer = describe_place(computed.user) or layer_name(place[0])
                roles.setdefault(place, {}).setdefault(computed.role, []).append(layer)
    return roles


def _sources(flow: Flow, node: fx.Node) -> list[Place]:
    """Return the dimensions of the parameters that a weight is computed from."""
    found, seen, waiting = [], {node}, [node]
    while waiting:
        current = waiting.pop()
        name = flow.parameter(current)
        if name is not None:
            found += [(name, dim) for dim in range(len(shape_of(current)))]
        new = [source for source in current.all_input_nodes if source not in seen]
        seen.update(new)
        waiting += new
    return found


# --- families ---


def _families(flow: Flow, uses: _Uses, expanded: Mapping[Place, Ids]) -> list[_Family]:
    """Return the families that some layer produces, in order of their first producer."""
    if not len(uses.atom):
        return []
    reasons = flow.units.reasons()
    atoms, family_of = _signatures(uses, reasons, len(flow.units))
    for entries in expanded.values():
        _tell_axes_apart(entries, family_of)
    own = family_of[atoms]
    by_number = np.split(atoms[np.argsort(own, kind="stable")], np.cumsum(np.bincount(own))[:-1])
    heads = _atoms_of(flow, flow.heads)
    families: dict[int, _Family] = {}
    numbers = family_of[uses.atom]
    order = np.lexsort((uses.index, uses.atom, uses.place, numbers))
    number, place = numbers[order], uses.place[order]
    for start, end in pairwise(_bounds((np.diff(number) != 0) | (np.diff(place) != 0))):
        current, where = int(number[start]), int(place[start])
        if current not in families:
            mine = by_number[current]
            is_head = bool(np.isin(mine, heads).all())
            families[current] = _Family(current, mine, reasons.get(int(mine[0])), [], {}, is_head, set())
        family = families[current]
        family.members.append((where, uses.index[order[start:end]].reshape(len(family.atoms), -1)))
        for role, layers in uses.roles[where].items():
            family.layers.setdefault(role, []).extend(layers)
    for entries in expanded.values():
        _note_neighbours(entries, family_of, families)
    made = [family for family in families.values() if "out" in family.layers]
    for family in made:
        _sort_units(uses, family)
    return sorted(made, key=lambda family: (_first_place(uses, family), int(family.members[0][1].min())))


def _signatures(uses: _Uses, reasons: Mapping[int, str], labels: int) -> tuple[Ids, Ids]:
    """Return the atoms in use, and by atom the number of its family; the last slot is that of `FIXED`."""
    numbers = {reason: number for number, reason in enumerate(dict.fromkeys(reasons.values()), start=1)}
    starts = _bounds((np.diff(uses.atom) != 0) | (np.diff(uses.place) != 0))
    atom, place, count = uses.atom[starts[:-1]], uses.place[starts[:-1]], np.diff(starts)
    firsts = _bounds(np.diff(atom) != 0)[:-1]
    atoms = atom[firsts]
    signatures = np.add.reduceat(_scrambled(place, count), firsts)
    frozen = np.zeros(labels + 1, dtype=np.int64)
    for label, reason in reasons.items():
        frozen[label] = numbers[reason]
    signatures += _scrambled(frozen[atoms], np.full(len(atoms), 1 << 20))
    family_of = np.full(labels + 1, -1, dtype=np.int64)
    family_of[atoms] = np.unique(signatures, return_inverse=True)[1].reshape(-1)
    return atoms, family_of


def _bounds(changes: npt.NDArray[np.bool_]) -> Ids:
    """Return where runs start, given where the next entry differs; and the end of the last one."""
    return np.concatenate([[0], np.flatnonzero(changes) + 1, [len(changes) + 1]])


def _tell_axes_apart(entries: Ids, family_of: Ids) -> None:
    """Part families that hold both axes of one grid, which are used alike where they are equally long."""
    for column in range(1, entries.shape[1]):
        known, mine = family_of[entries[:, :column]], family_of[entries[:, column]]
        both = (known == mine[:, None]).any(1) & (mine >= 0)
        for family in np.unique(mine[both]).tolist():
            family_of[np.unique(entries[mine == family, column])] = family_of.max() + 1


def _scrambled(first: Ids, second: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each pair (the finaliser of splitmix64)."""
    mixed = first.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + second.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _atoms_of(flow: Flow, labels: list[Ids]) -> Ids:
    if not labels:
        return np.zeros(0, dtype=np.int64)
    return np.unique(np.concatenate([np.unique(flow.units.expand(ids)) for ids in labels]))


def _note_neighbours(entries: Ids, family_of: Ids, families: Mapping[int, _Family]) -> None:
    """Families are neighbours where an entry is in both: the axes of a grid."""
    known, base = family_of[entries], int(family_of.max()) + 2
    for first in range(entries.shape[1]):
        for second in range(first + 1, entries.shape[1]):
            for code in np.unique((known[:, first] + 1) * base + known[:, second] + 1).tolist():
                one, other = code // base - 1, code % base - 1
                if one >= 0 <= other and one != other:
                    families[one].neighbours.add(other)
                    families[other].neighbours.add(one)


def _first_place(uses: _Uses, family: _Family) -> int:
    return min(place for place, _ in family.members if "out" in uses.roles[place])


def _sort_units(uses: _Uses, family: _Family) -> None:
    """Number the units as they come along the first dimension that makes them."""
    first = _first_place(uses, family)
    order = np.argsort(next(indices for place, indices in family.members if place == first)[:, 0])
    family.atoms = family.atoms[order]
    family.members = [(place, indices[order]) for place, indices in family.members]


# --- groups ---


def _primaries(families: Mapping[int, _Family]) -> dict[int, int | None]:
    """Choose one axis of every grid to prune along: heads, else the longest; name it for the other axes."""
    within: dict[int, int | None] = {}
    ranked = sorted(
        families.values(), key=lambda family: (not family.is_head, -len(family.atoms), -family.number)
    )
    for family in ranked:
        above = [other for other in family.neighbours if within.get(other, -1) is None]
        within[family.number] = above[0] if above else None
    return within


def _names(families: Mapping[int, _Family], within: Mapping[int, int | None]) -> dict[int, str]:
    """Name each group after its first producer; where another one has that name, say which part it is."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for primary in (True, False):
        for number, family in families.items():
            if (within[number] is None) == primary:
                layer = family.layers["out"][0]
                name, more = layer, 2
                while name in taken:
                    name, more = f"{layer}[{more}]", more + 1
                taken.add(name)
                names[number] = name
    return {number: names[number] for number in families}


def _group(
    uses: _Uses,
    family: _Family,
    name: str,
    within: int | None,
    names: Mapping[int, str],
    families: Mapping[int, _Family],
) -> PruningGroup:
    members = tuple(
        Member(*uses.places[place], uses.sizes[place], indices, _strongest(uses.roles[place]))
        for place, indices in sorted(family.members, key=lambda member: member[0])
    )
    inside_head = within is not None and families[within].is_head
    granularity: Granularity = "head" if family.is_head else "head width" if inside_head else "channel"
    return PruningGroup(
        name,
        len(family.atoms),
        tuple(dict.fromkeys(family.layers["out"])),
        tuple(dict.fromkeys(family.layers.get("in", ()))),
        members,
        granularity,
        None if within is None else names[within],
    )


def _strongest(roles: Mapping[Role, list[str]]) -> Role:
    return next(iter(roles), "along")
