"""Which models the zoo holds, and how each is built: random weights, in eval mode, ready to be traced.

A name is `collection/model`: `torchvision/resnet18`, `timm/levit_128s`, `other/u_net`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from zoo_models import OWN, Inputs, images

_CLASSES = 1000

# The auxiliary classifiers only run while training from scratch: an eval-mode capture cannot see them.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}

_TIMM = """
bat_resnext26ts beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_tiny coat_tiny
coatnet_nano_cc_224 coatnet_pico_rw_224 coatnext_nano_rw_224 convformer_s18 convit_tiny convmixer_768_32
convnext_atto convnext_zepto_rms convnextv2_atto crossvit_9_dagger_240 crossvit_tiny_240 cs3darknet_focus_s
cs3sedarknet_l cspresnet50 cspresnext50 darknet17 davit_tiny deit3_small_patch16_224
deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 densenet121 densenetblur121d dla34 dla46x_c
dla60_res2net dpn48b dpn68b eca_halonext26ts eca_nfnet_l0 ecaresnet26t ecaresnext26t_32x4d edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_b0_gn efficientnet_blur_b0
efficientnet_cc_b0_4e efficientnet_es efficientnet_lite0 efficientnetv2_rw_t efficientvit_b0 efficientvit_m0
ese_vovnet19b_slim eva02_tiny_patch14_224 fasternet_t0 fastvit_sa12 fastvit_t8 fbnetc_100 fbnetv3_b
focalnet_tiny_srf gcresnext26ts gcvit_xxtiny gernet_s ghostnet_050 ghostnetv2_100 ghostnetv3_050 gmixer_12_224
gmlp_ti16_224 halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224 hrnet_w18_small
inception_next_atto inception_resnet_v2 inception_v4 lambda_resnet26t lamhalobotnet50ts_256 lcnet_050
lcnetv2_small legacy_seresnext26_32x4d legacy_xception levit_128s levit_conv_128s mambaout_femto
maxvit_pico_rw_256 maxvit_tiny_tf_224 maxxvit_rmlp_nano_rw_256 mixer_s32_224 mixnet_s mnasnet_small
mobilenetv1_100 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_hybrid_medium
mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 nf_resnet26
nf_seresnet26 nfnet_l0 pit_ti_224 pit_xs_distilled_224 poolformer_s12 poolformerv2_s12 pvt_v2_b0 rdnet_tiny
regnetv_040 regnetx_002 regnety_002 regnetz_005 regnetz_b16 repghostnet_050 repvgg_a0 repvit_m0_9
res2net50_14w_8s res2next50 resmlp_12_224 resnest14d resnest26d resnet10t resnet26d resnet51q resnetblur18
resnetrs50 resnetv2_50x1_bit resnext26ts rexnet_100 rexnetr_100 sebotnet33ts_256 sedarknet21 selecsls42b
semnasnet_075 sequencer2d_s seresnet18 seresnext26t_32x4d shvit_s1 skresnet18 spnasnet_100 starnet_s1
swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tf_efficientnetv2_b0
tf_mixnet_s tf_mobilenetv3_small_minimal_100 tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m
twins_pcpvt_small twins_svt_small visformer_tiny vit_pwee_patch16_reg1_gap_256 vit_relpos_small_patch16_224
vit_small_patch16_dinov3 vit_small_patch16_rope_224 vit_srelpos_small_patch16_224 vit_tiny_patch16_224
vit_tiny_r_s16_p8_224 vit_wee_patch16_reg1_gap_256 vit_xsmall_patch16_clip_224 vitamin_small_224 volo_d1_224
vovnet39a xception41 xcit_nano_12_p16_224
"""


@dataclass(frozen=True)
class Subject:
    """A model of the zoo.

    Attributes:
        model: in eval mode.
        inputs: what it is called with for a batch of the given size.
        outputs: names of the modules whose output is the model's; their width stays.
    """

    model: nn.Module
    inputs: Callable[[int], Inputs]
    outputs: tuple[str, ...]


def names() -> list[str]:
    """Return every model of the zoo."""
    models = import_torchvision().models
    vision = _vision()
    return [
        *(f"other/{name}" for name in sorted([*OWN, *vision])),
        *(f"torchvision/{name}" for name in models.list_models(module=models)),
        *(f"timm/{name}" for name in _TIMM.split()),
    ]


def build(name: str, image_size: int | None = None) -> Subject:
    """Build a model with random weights and lively norm statistics.

    Args:
        name: as `names` gives it.
        image_size: side of the square input of a classifier; the model's own by default.
    """
    torch.manual_seed(0)
    collection, _, kind = name.partition("/")
    subject = _MAKERS[collection](kind, image_size)
    subject.model.eval()
    enliven(subject.model, subject.inputs)
    return subject


def parameters(name: str) -> int:
    """Return a model's number of parameters, without making them."""
    models = import_torchvision().models
    collection, _, kind = name.partition("/")
    if collection == "torchvision":  # some of these cannot be made without data
        return int(models.get_model_weights(kind).DEFAULT.meta["num_params"])
    with torch.device("meta"):
        return sum(one.numel() for one in _MAKERS[collection](kind, None).model.parameters())


def import_torchvision() -> Any:
    """Import torchvision, also where its compiled operators do not fit the installed torch."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision
    return torchvision


_KEPT: list[torch.library.Library] = []  # a library that is collected takes its operators along


def _vision() -> dict[str, Any]:
    import_torchvision()
    from zoo_vision import VISION

    return VISION


def _other(name: str, image_size: int | None) -> Subject:
    make, inputs, outputs = OWN.get(name) or _vision()[name]
    return Subject(make(), inputs, outputs)


def _torchvision_classifier(name: str, image_size: int | None) -> Subject:
    models = import_torchvision().models
    options = dict(_OPTIONS.get(name, {}))
    if image_size is not None and name.startswith("vit_"):
        options["image_size"] = image_size
    model = models.get_model(name, weights=None, **options)
    size = image_size or (299 if name == "inception_v3" else 224)
    return Subject(model, images(3, size, size), _classifiers(model, _CLASSES))


def _timm_classifier(name: str, image_size: int | None) -> Subject:
    import_torchvision()
    import timm

    options = {"img_size": image_size} if image_size is not None and _takes_size(timm, name) else {}
    model = timm.create_model(name, pretrained=False, num_classes=_CLASSES, **options)
    shape = model.pretrained_cfg["input_size"] if image_size is None else (3, image_size, image_size)
    return Subject(model, images(*shape), _classifiers(model, _CLASSES))


def _takes_size(timm: Any, name: str) -> bool:
    model = type(timm.create_model(name, pretrained=False))
    return "img_size" in inspect.signature(model.__init__).parameters


def _classifiers(model: nn.Module, classes: int) -> tuple[str, ...]:
    """Return the layers that make the classes."""
    return tuple(
        name
        for name, module in model.named_modules()
        if classes in (getattr(module, "out_features", None), getattr(module, "out_channels", None))
    )


def enliven(model: nn.Module, inputs: Callable[[int], Inputs]) -> None:
    """Give a fresh model the look of a trained one, so that a wrong slimming shows in its output.

    Constant parameters (zeroed gates, layer scales of 1e-6) get values that matter; every batch norm gets
    statistics that fit what reaches it, one after the other in one forward pass.
    """
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(_fit) for norm in norms if norm.running_mean is not None]
    with torch.no_grad():
        for parameter in model.parameters():
            _vary(parameter)
        model(*inputs(2))
    for hook in hooks:
        hook.remove()


def _vary(parameter: Tensor) -> None:
    """Fill a constant parameter with values near the constant, or near what it would train to."""
    if not parameter.is_floating_point() or not parameter.numel():
        return
    value = parameter.reshape(-1)[0]
    if not bool((parameter == value).all()):
        return
    if value == 0:
        parameter.normal_(0.0, 0.1 if parameter.ndim <= 1 else 0.02)
    elif 0 < value < 0.01:
        parameter.uniform_(0.1, 0.3)
    else:
        parameter.mul_(torch.rand_like(parameter) * 0.4 + 0.8)


def _fit(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
    """Set a batch norm's statistics so that its output is about 1 in size, each channel a little off.

    Half of the mean stays in: to take it all out of channels that hardly vary would amplify rounding errors
    from layer to layer, until float32 answers of two runtimes had nothing in common.
    """
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    over = [dim for dim in range(given[0].ndim) if dim != 1]
    mean, square = given[0].mean(over), given[0].square().mean(over)
    power = square - 0.75 * mean.square()  # of what is left when half of the mean is taken out
    power = power.clamp(min=1e-2 * float(power.mean()) + 1e-6)
    norm.running_mean.copy_(mean * (torch.rand_like(mean) * 0.2 + 0.4))
    norm.running_var.copy_(power * (torch.rand_like(power) * 0.6 + 0.7))


_MAKERS = {"torchvision": _torchvision_classifier, "timm": _timm_classifier, "other": _other}
