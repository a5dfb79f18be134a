"""Rotated object detection: ARC backbones, oriented detectors, DOTA-style training, inference and evaluation."""

from .augmentation import Augmentation, Sample, crop_map, cropped
from .fpn import FPN
from .resnet import ResNet, ResNetConfig, load_resnet

__all__ = [
    "FPN",
    "Augmentation",
    "ResNet",
    "ResNetConfig",
    "Sample",
    "crop_map",
    "cropped",
    "load_resnet",
]
