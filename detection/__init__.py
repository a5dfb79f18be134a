"""Rotated object detection: ARC backbones, oriented detectors, DOTA-style training, inference and evaluation."""

from .anchors import Anchors
from .augmentation import Augmentation, Sample, crop_map, cropped
from .box_coders import HorizontalCoder, HullCoder, MidpointCoder, RotatedCoder
from .detectors import Detector, DetectorConfig, build_detector
from .fpn import FPN
from .resnet import ResNet, ResNetConfig, load_resnet
from .retina_head import RetinaHeadOptions
from .roi_head import RoIHeadOptions
from .rpn import RPNOptions
from .structures import Detections, Targets

__all__ = [
    "FPN",
    "Anchors",
    "Augmentation",
    "Detections",
    "Detector",
    "DetectorConfig",
    "HorizontalCoder",
    "HullCoder",
    "MidpointCoder",
    "RPNOptions",
    "ResNet",
    "ResNetConfig",
    "RetinaHeadOptions",
    "RoIHeadOptions",
    "RotatedCoder",
    "Sample",
    "Targets",
    "build_detector",
    "crop_map",
    "cropped",
    "load_resnet",
]
