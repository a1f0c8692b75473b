"""A slimmed model as the graph that was captured of it, its numbers mended.

For models whose Python code bakes widths in. What the capture in eval mode did not see is not there: stochastic
depth, and dropout within an attention, stay absent in train mode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn

from pipeline.graph.capture import Alive, Capture
from pipeline.prune.graph_form_batch import BatchSizes, batch_sizes
from pipeline.prune.graph_form_nodes import OUT_SPEC, GraphWriter
from pipeline.prune.graph_form_weights import give_weights
from pipeline.prune.mends import mends


class SlimmedGraph(nn.Module):
    """Runs a captured graph; takes and gives what the model does.

    Parameters and buffers have the names that they have in the model. Norms, dropout and recurrent layers follow
    `train()` and `eval()`, also of single submodules. Running statistics are updated, `num_batches_tracked` is not.
    `any_batch` tells whether the graph takes batches of any size or only that of the example inputs; `note` says the
    latter in words.
    """

    any_batch: bool
    note: str

    def __init__(self, sizes: BatchSizes | None) -> None:
        super().__init__()
        self.any_batch = sizes is not None
        self.note = "" if self.any_batch else "it takes batches only of the size that it was traced with"


def graph_form(
    model: nn.Module,
    capture: Capture,
    alive: Alive,
    dropped: Sequence[str] = (),
    *,
    any_batch: bool = True,
) -> SlimmedGraph:
    """Return the captured graph of `model` with what `alive` leaves of its weights.

    Args:
        model: whose weights are taken; it stays as it is.
        capture: what is known of its tensors.
        alive: what stays.
        dropped: modules to leave out, each of one input and one output of equal shape.
        any_batch: capture the model once more with another batch size, to tell the sizes that follow it.

    Raises:
        ModelError: a module to drop is no block, or an operator cannot run on what is left.
    """
    sizes = batch_sizes(model, capture) if any_batch else None
    paths = {path for path, _ in model.named_modules(remove_duplicate=False)}
    writer = GraphWriter(capture, mends(capture, alive), dropped, sizes, paths)
    own = {"forward": _compiled(writer.write()), OUT_SPEC: capture.program.call_spec.out_spec}
    slimmed: SlimmedGraph = type(SlimmedGraph.__name__, (SlimmedGraph,), own)(sizes)
    give_weights(slimmed, model, capture, alive, dropped)
    device = next((tensor.device for tensor in model.parameters()), None)
    for name, tensor in writer.tensors.items():
        slimmed.register_buffer(name, tensor.to(device), persistent=False)
    for name, module in writer.modules.items():
        slimmed.add_module(name, copy.deepcopy(module))
    return slimmed


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    """Return the graph as the method `forward`, with the names of the model's inputs."""
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<slimmed graph>", "exec"), scope)  # noqa: S102 (our own code, written by torch.fx)
    forward: Callable[..., Any] = scope["forward"]
    return forward
