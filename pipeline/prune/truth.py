"""Attributes of `torch.nn` layers that repeat a parameter's shape: made to agree with it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def tell_truth(model: nn.Module) -> None:
    """Set the widths that every known layer tells of itself to those of its parameters, in place.

    The number of groups of a convolution or of a group norm is not to be seen from the parameters.
    """
    for module in model.modules():
        if isinstance(module, _ConvNd):
            _tell_conv(module)
        elif isinstance(module, nn.MultiheadAttention):
            _tell_attention(module)
        elif isinstance(module, nn.RNNBase):
            _tell_recurrent(module)
        else:
            _tell_shapes(module)


def _tell_shapes(module: nn.Module) -> None:
    weight = getattr(module, "weight", None)
    vector = weight if isinstance(weight, Tensor) else getattr(module, "running_mean", None)
    if not isinstance(vector, Tensor):
        return
    shape = tuple(vector.shape)
    if isinstance(module, nn.Linear) and len(shape) == 2:
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.Bilinear):
        module.out_features, module.in1_features, module.in2_features = shape
    elif isinstance(module, _NormBase):
        module.num_features = shape[0]
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = shape
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = shape[0]
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        module.num_embeddings, module.embedding_dim = shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = shape[0]


def _tell_conv(conv: _ConvNd) -> None:
    first, second = conv.weight.shape[:2]
    if isinstance(conv, _ConvTransposeNd):
        conv.in_channels, conv.out_channels = first, second * conv.groups
    else:
        conv.in_channels, conv.out_channels = second * conv.groups, first


def _tell_attention(attention: nn.MultiheadAttention) -> None:
    """The heads keep their width; all that changes with the embedding follows it."""
    width = attention.out_proj.weight.shape[0]
    if attention.in_proj_weight is not None:
        attention.kdim = attention.vdim = width
    else:
        attention.kdim, attention.vdim = attention.k_proj_weight.shape[1], attention.v_proj_weight.shape[1]
    attention.num_heads = max(1, attention.out_proj.weight.shape[1] // attention.head_dim)
    attention.embed_dim = width


def _tell_recurrent(layer: nn.RNNBase) -> None:
    first, hidden = layer.get_parameter("weight_ih_l0"), layer.get_parameter("weight_hh_l0")
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    layer.input_size, layer.hidden_size = first.shape[1], first.shape[0] // gates
    layer.proj_size = hidden.shape[1] if layer.proj_size else 0
    layer._init_flat_weights()  # noqa: SLF001 (its list of parameters is its own)
