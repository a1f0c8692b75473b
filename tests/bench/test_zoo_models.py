"""The zoo's own networks run, and torch.export captures them, so that a zoo run measures slimming alone."""

from __future__ import annotations

import pytest
import torch
from zoo_catalogue import build
from zoo_checks import CheckError, outputs_of, training_step
from zoo_models import OWN


@pytest.mark.parametrize("name", sorted(OWN))
def test_every_network_answers_to_its_input_and_exports(name: str) -> None:
    subject = build(f"other/{name}")
    inputs, others = subject.inputs(1), subject.inputs(1)
    with torch.no_grad():
        found, other = outputs_of(subject.model(*inputs)), outputs_of(subject.model(*others))
    assert all(bool(one.isfinite().all()) for one in found)
    assert not any(torch.allclose(one, two, rtol=1e-2) for one, two in zip(found, other, strict=True))
    assert torch.export.export(subject.model, inputs, strict=False) is not None
    assert set(subject.outputs) <= {module for module, _ in subject.model.named_modules()}


def test_a_network_is_built_the_same_every_time() -> None:
    first, second = build("other/ds_cnn_wide").model, build("other/ds_cnn_wide").model
    again = second.state_dict()
    assert all(torch.equal(one, again[name]) for name, one in first.state_dict().items())


def test_a_step_that_moves_too_little_is_found() -> None:
    subject = build("other/ds_cnn_wide")
    assert training_step(subject.model, subject.inputs, graph_form=False)["batch"] == 2
    for parameter in list(subject.model.parameters())[:-2]:
        parameter.requires_grad_(False)
    with pytest.raises(CheckError, match="moved"):
        training_step(subject.model, subject.inputs, graph_form=False)
