"""What the operators of a captured graph do with their operands, as far as removed entries are concerned."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Sums of products: with zeros in the removed entries of all operands, these add nothing.
CONTRACT = _names("""
    conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear mm bmm mv dot
    vdot inner matmul addmm addmv addbmm baddbmm einsum tensordot outer scaled_dot_product_attention lstm gru
    rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell _weight_norm cosine_similarity cdist
""")

# Statistics along the dimensions named by the argument `dim` (all without it): of the kept entries alone.
REDUCE = _names("""
    mean sum var std var_mean std_mean amax amin max min aminmax prod norm linalg_vector_norm frobenius_norm logsumexp
    any all median nanmean nansum argmax argmin count_nonzero
""")

# The same, and then every entry is scaled by them.
NORM = _names("layer_norm rms_norm group_norm")

# Mixing all positions along `dim` in a way that the kept ones alone cannot: none may be removed there.
WHOLE = _names(
    "softmax log_softmax _softmax _log_softmax cumsum cumprod cummax cummin logcumsumexp sort argsort topk renorm"
)

# Mixing positions along so many last dimensions, of which none may be removed.
_SPATIAL = (
    _names(
        "max_pool1d max_pool1d_with_indices avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_linear1d "
        "upsample_nearest1d reflection_pad1d replication_pad1d"
    ),
    _names("""
        max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d
        upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa
        _upsample_bicubic2d_aa         reflection_pad2d replication_pad2d im2col grid_sampler grid_sampler_2d
    """),
    _names("""
        max_pool3d max_pool3d_with_indices avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d
        upsample_trilinear3d replication_pad3d
    """),
)
SPATIAL = {name: count for count, names in enumerate(_SPATIAL, start=1) for name in names}

# Every channel by itself: the statistics of batch norm are given, those of instance norm are over positions.
_CHANNELWISE = _names("batch_norm _native_batch_norm_legit_no_training instance_norm col2im")

# The same elements in other places, copies of them, or constants: removed entries stay apart by themselves.
_STRUCTURAL = _names("""
    view reshape view_as reshape_as _unsafe_view flatten unflatten squeeze unsqueeze permute transpose swapaxes
    swapdims t numpy_T mT adjoint movedim moveaxis expand expand_as broadcast_to broadcast_tensors repeat
    repeat_interleave tile cat concat concatenate stack hstack vstack split split_with_sizes tensor_split chunk
    unbind select slice narrow index index_select gather take_along_dim embedding pad constant_pad_nd flip fliplr
    flipud roll rot90 pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold diagonal tril
    triu meshgrid atleast_1d atleast_2d atleast_3d select_scatter slice_scatter index_put getitem zeros_like
    ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty
    _assert_tensor_metadata sym_size
""")

# Each element by itself, where PyTorch does not tag the operator as pointwise.
_ELEMENTWISE = _names("""
    dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout detach contiguous clone to _to_copy
    type_as alias lift_fresh_copy lift_fresh lift copy fill zero multiply subtract divide greater less greater_equal
    less_equal not_equal hardswish hardsigmoid glu prelu _prelu_kernel log_sigmoid special_expit masked_fill nan_to_num
    relu6 clip negative absolute celu
""")

UNTOUCHED = _CHANNELWISE | _STRUCTURAL | _ELEMENTWISE
