from __future__ import annotations

import pytest
import torch
from prunable_nets import make, traced

from pipeline.errors import ModelError
from pipeline.prune import most_important, score, uniform_plan


def test_every_group_keeps_the_same_share() -> None:
    widths = uniform_plan(traced("projection"), keep=0.25).widths
    assert all(after == round(before * 0.25) for before, after in widths.values())
    assert len(widths) > 3


def test_widths_are_multiples_and_never_zero() -> None:
    widths = uniform_plan(traced("mobile"), keep=0.3, multiple_of=4).widths
    assert widths["blocks.1.expand.0"] == (30, 8)
    assert all(after % 4 == 0 for _, after in widths.values())
    assert uniform_plan(traced("mobile"), keep=0.3, multiple_of=64).widths["squeeze"] == (6, 6)
    assert min(after for _, after in uniform_plan(traced("mobile"), keep=0.01).widths.values()) == 1


def test_ignored_group_stays_whole() -> None:
    widths = uniform_plan(traced("plain"), ignore=["conv2"]).widths
    assert widths == {"conv1": (12, 6), "conv2": (10, 10), "fc1": (20, 10)}


def test_scores_decide_what_stays() -> None:
    graph = traced("plain")
    scores = {group.name: torch.arange(group.width).double() for group in graph.groups}
    assert uniform_plan(graph, importance=scores).keep["conv1"] == (6, 7, 8, 9, 10, 11)


def test_names_and_scores_of_the_same_criterion_agree() -> None:
    graph = traced("concat")
    assert uniform_plan(graph, importance="l2") == uniform_plan(
        graph, importance=score(make("concat"), graph, "l2")
    )


def test_equal_scores_keep_the_lower_indices() -> None:
    assert most_important(torch.tensor([1.0, 2.0, 1.0, 1.0]), 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0.0}, "keep=0.0"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"multiple_of": 0}, "multiples of 0"),
        ({"ignore": ["conv9"]}, "conv9"),
        ({"importance": "magic"}, "unknown importance 'magic'.*l1, l2, taylor"),
        ({"importance": "taylor"}, "needs batches"),
        ({"importance": {}}, "no 12 scores for group conv1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        uniform_plan(traced("plain"), **arguments)  # type: ignore[arg-type]
