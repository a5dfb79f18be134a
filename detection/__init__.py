"""Rotated object detection: ARC backbones, oriented detectors, DOTA-style training, inference and evaluation."""

from .anchors import Anchors
from .augmentation import Augmentation, Sample, crop_map, cropped
from .average_precision import average_precision
from .box_coders import HorizontalCoder, HullCoder, MidpointCoder, RotatedCoder
from .checkpoints import load_detector, save_detector
from .detection_files import ClassDetections, read_detections, write_detections
from .detectors import Detector, DetectorConfig, build_detector
from .evaluation import Annotations, ClassResult, DetectionResult, evaluate_detections
from .fpn import FPN
from .merging import PatchOrigin, merge_patches, patch_origin
from .resnet import ResNet, ResNetConfig, load_resnet
from .retina_head import RetinaHeadOptions
from .roi_head import RoIHeadOptions
from .rpn import RPNOptions
from .structures import Detections, Targets

__all__ = [
    "FPN",
    "Anchors",
    "Annotations",
    "Augmentation",
    "ClassDetections",
    "ClassResult",
    "DetectionResult",
    "Detections",
    "Detector",
    "DetectorConfig",
    "HorizontalCoder",
    "HullCoder",
    "MidpointCoder",
    "PatchOrigin",
    "RPNOptions",
    "ResNet",
    "ResNetConfig",
    "RetinaHeadOptions",
    "RoIHeadOptions",
    "RotatedCoder",
    "Sample",
    "Targets",
    "average_precision",
    "build_detector",
    "crop_map",
    "cropped",
    "evaluate_detections",
    "load_detector",
    "load_resnet",
    "merge_patches",
    "patch_origin",
    "read_detections",
    "save_detector",
    "write_detections",
]
