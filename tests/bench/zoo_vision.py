"""The zoo's networks from torchvision that classify no images: detectors, segmentation and video.

A detector's post-processing (anchors, non-maximum suppression) is left out: what is slimmed is the backbone,
the feature pyramid and the heads. Import this through `zoo_catalogue`, which makes torchvision importable.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torchvision.models import detection, segmentation, video
from zoo_models import Inputs, images


class Detector(nn.Module):
    """A detector's learnt part: images to the heads' raw tensors, in the order of the heads' names."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        maps = list(self.backbone(pictures).values())
        found = self.head(maps)
        return tuple(found[name] for name in sorted(found))


class Segmenter(nn.Module):
    """A segmentation network that returns its tensor, not a dictionary of one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(pictures)["out"]


def _ssdlite() -> nn.Module:
    return Detector(
        detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    )


def _fcos() -> nn.Module:
    return Detector(detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21))


def _retinanet() -> nn.Module:
    return Detector(detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21))


def _deeplab() -> nn.Module:
    return Segmenter(
        segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    )


def _deeplab_resnet() -> nn.Module:
    return Segmenter(segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21))


def _lraspp() -> nn.Module:
    return Segmenter(
        segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    )


_SSD_HEADS = tuple(
    f"head.{kind}_head.module_list.{k}.1" for kind in ("classification", "regression") for k in range(6)
)
_FCOS_HEADS = (
    "head.classification_head.cls_logits",
    "head.regression_head.bbox_reg",
    "head.regression_head.bbox_ctrness",
)
_CLIP = images(3, 8, 64, 64)

# name: (maker of the module, maker of inputs for a batch, the modules whose output is the model's)
VISION: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs], tuple[str, ...]]] = {
    "deeplabv3_mobilenet_v3": (_deeplab, images(3, 224, 224), ("network.classifier.4",)),
    "deeplabv3_resnet50": (_deeplab_resnet, images(3, 128, 128), ("network.classifier.4",)),
    "fcos_resnet50": (_fcos, images(3, 128, 128), _FCOS_HEADS),
    "lraspp_mobilenet_v3": (
        _lraspp,
        images(3, 224, 224),
        ("network.classifier.low_classifier", "network.classifier.high_classifier"),
    ),
    "retinanet_resnet50": (
        _retinanet,
        images(3, 128, 128),
        ("head.classification_head.cls_logits", "head.regression_head.bbox_reg"),
    ),
    "ssdlite_mobilenet_v3": (_ssdlite, images(3, 320, 320), _SSD_HEADS),
    "video_mc3_18": (lambda: video.mc3_18(weights=None), _CLIP, ("fc",)),
    "video_r2plus1d_18": (lambda: video.r2plus1d_18(weights=None), _CLIP, ("fc",)),
    "video_r3d_18": (lambda: video.r3d_18(weights=None), _CLIP, ("fc",)),
}
