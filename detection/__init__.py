"""Rotated object detection: ARC backbones, oriented detectors, DOTA-style training, inference and evaluation."""

from .anchors import Anchors
from .angle_coders import AngleCoder, CircularSmoothLabel, PhaseShiftCoder, VectorAngleCoder
from .augmentation import Augmentation, Sample, crop_map, cropped
from .average_precision import average_precision
from .box_coders import HorizontalCoder, HullCoder, MidpointCoder, RotatedCoder
from .box_losses import gaussian_loss, iou_loss, kfiou_loss, probiou_loss
from .checkpoints import load_detector, save_detector
from .detection_files import ClassDetections, read_detections, write_detections
from .detectors import Detector, DetectorConfig, build_detector
from .evaluation import Annotations, ClassResult, DetectionResult, evaluate_detections
from .export import export_onnx
from .fpn import FPN
from .inference import by_class, detect_images
from .merging import EdgeRule, PatchOrigin, merge_patches, patch_origin, read_patch_index, write_patch_index
from .recipes import Recipe, published_recipe, small_recipe
from .regression import AngleCodedCoder, regression_loss
from .resnet import ResNet, ResNetConfig, load_resnet
from .retina_head import RetinaHeadOptions
from .roi_head import RoIHeadOptions
from .rpn import RPNOptions
from .structures import Detections, Targets
from .suppression import DetectionOptions
from .tiling import Raster, Tiling, detect_tiled, tile_origins
from .training import TrainingOptions, train_detector

__all__ = [
    "FPN",
    "Anchors",
    "AngleCodedCoder",
    "AngleCoder",
    "Annotations",
    "Augmentation",
    "CircularSmoothLabel",
    "ClassDetections",
    "ClassResult",
    "DetectionOptions",
    "DetectionResult",
    "Detections",
    "Detector",
    "DetectorConfig",
    "EdgeRule",
    "HorizontalCoder",
    "HullCoder",
    "MidpointCoder",
    "PatchOrigin",
    "PhaseShiftCoder",
    "RPNOptions",
    "Raster",
    "Recipe",
    "ResNet",
    "ResNetConfig",
    "RetinaHeadOptions",
    "RoIHeadOptions",
    "RotatedCoder",
    "Sample",
    "Targets",
    "Tiling",
    "TrainingOptions",
    "VectorAngleCoder",
    "average_precision",
    "build_detector",
    "by_class",
    "crop_map",
    "cropped",
    "detect_images",
    "detect_tiled",
    "evaluate_detections",
    "export_onnx",
    "gaussian_loss",
    "iou_loss",
    "kfiou_loss",
    "load_detector",
    "load_resnet",
    "merge_patches",
    "patch_origin",
    "probiou_loss",
    "published_recipe",
    "read_detections",
    "read_patch_index",
    "regression_loss",
    "save_detector",
    "small_recipe",
    "tile_origins",
    "train_detector",
    "write_detections",
    "write_patch_index",
]
