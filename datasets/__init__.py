"""Datasets and generators of them: one file per dataset."""

# Packed by hand, so that a page shows what there is.
# isort: off
# fmt: off
from .aerial_images import IMAGE_ENDINGS, AerialImage, LabelledFolder, Labels, image_size, read_image
from .aerial_scenes import AERIAL_CLASSES, AerialScenes
from .augment import (
    BenchmarkRotation, benchmark_rotation, benchmark_turned, published_augmentation, random_crop, random_subset,
    rotation_about_fixed_axes, shaken, turned, uniform_augmentation,
)
from .benchmark_logs import LogEntry, read_info, read_log, read_overlap_log, write_info, write_log, write_overlap_log
from .benchmark_pairs import Benchmark, BenchmarkPair, disjoint_pairs
from .benchmarks import open_benchmark
from .dataset_check import CheckedBenchmark, DatasetProblem, DatasetReport, check_dataset
from .depth_camera import DepthCamera
from .dota import DOTA, DOTA_CLASSES, read_labels, write_dota, write_labels
from .dota_check import LabelledReport, check_labelled
from .dota_patches import SplitReport, split_dota
from .dota_split import SplitOptions, Window, shares_inside, windows
from .drawing import class_colors, draw_objects
from .fourdmatch import DeformingPair, FourDMatch
from .hrsc import HRSC2016, read_hrsc_labels
from .indoor_rooms import room_fragments, write_indoor_rooms
from .indoor_scenes import (
    Fragment, IndoorScenes, RegistrationPair, indoor_fragment, indoor_pair, measured_overlap, unrelated_pair,
)
from .mental_trials import DISPARITIES, DescribedView, DescribedViews, MentalTrial, MentalTrials, mental_trial
from .object_renderer import render, voxelise
from .object_symbols import ACTIONS, RELATIONS, describe, describe_source, quadrant, relation
from .shepard_metzler import (
    ObjectSplit, canonical_path, enumerate_objects, mirrored_path, parse_path, path_text, posed_paths, reversed_path,
    rotated_path, split_objects,
)
from .threedmatch import ThreeDMatch

__all__ = [  # noqa: RUF022
    "ACTIONS", "AERIAL_CLASSES", "AerialImage", "AerialScenes", "Benchmark", "BenchmarkPair", "BenchmarkRotation",
    "CheckedBenchmark", "DISPARITIES", "DOTA", "DOTA_CLASSES", "DatasetProblem", "DatasetReport", "DeformingPair",
    "DepthCamera", "DescribedView", "DescribedViews", "FourDMatch", "Fragment", "HRSC2016", "IMAGE_ENDINGS",
    "IndoorScenes", "LabelledFolder", "LabelledReport", "Labels", "LogEntry", "MentalTrial", "MentalTrials",
    "ObjectSplit", "RELATIONS", "RegistrationPair", "SplitOptions", "SplitReport", "ThreeDMatch", "Window",
    "benchmark_rotation", "benchmark_turned", "canonical_path", "check_dataset", "check_labelled",
    "class_colors", "describe", "describe_source", "disjoint_pairs", "draw_objects", "enumerate_objects", "image_size",
    "indoor_fragment", "indoor_pair", "measured_overlap", "mental_trial", "mirrored_path", "open_benchmark",
    "parse_path", "path_text", "posed_paths", "published_augmentation", "quadrant", "random_crop", "random_subset",
    "read_hrsc_labels", "read_image", "read_info", "read_labels", "read_log", "read_overlap_log", "relation", "render",
    "reversed_path", "room_fragments", "rotated_path", "rotation_about_fixed_axes", "shaken", "shares_inside",
    "split_dota", "split_objects", "turned", "uniform_augmentation", "unrelated_pair", "voxelise", "windows",
    "write_dota", "write_indoor_rooms", "write_info", "write_labels", "write_log", "write_overlap_log",
]
