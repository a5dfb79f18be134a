"""Datasets and generators of them: one file per dataset."""

from .aerial_images import IMAGE_ENDINGS, AerialImage, LabelledFolder, Labels, image_size, read_image
from .aerial_scenes import AERIAL_CLASSES, AerialScenes
from .augment import (
    BenchmarkRotation,
    benchmark_rotation,
    benchmark_turned,
    published_augmentation,
    random_crop,
    random_subset,
    rotation_about_fixed_axes,
    shaken,
    turned,
    uniform_augmentation,
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
    Fragment,
    IndoorScenes,
    RegistrationPair,
    indoor_fragment,
    indoor_pair,
    measured_overlap,
    unrelated_pair,
)
from .threedmatch import ThreeDMatch

__all__ = [
    "AERIAL_CLASSES",
    "DOTA",
    "DOTA_CLASSES",
    "HRSC2016",
    "IMAGE_ENDINGS",
    "AerialImage",
    "AerialScenes",
    "Benchmark",
    "BenchmarkPair",
    "BenchmarkRotation",
    "CheckedBenchmark",
    "DatasetProblem",
    "DatasetReport",
    "DeformingPair",
    "DepthCamera",
    "FourDMatch",
    "Fragment",
    "IndoorScenes",
    "LabelledFolder",
    "LabelledReport",
    "Labels",
    "LogEntry",
    "RegistrationPair",
    "SplitOptions",
    "SplitReport",
    "ThreeDMatch",
    "Window",
    "benchmark_rotation",
    "benchmark_turned",
    "check_dataset",
    "check_labelled",
    "class_colors",
    "disjoint_pairs",
    "draw_objects",
    "image_size",
    "indoor_fragment",
    "indoor_pair",
    "measured_overlap",
    "open_benchmark",
    "published_augmentation",
    "random_crop",
    "random_subset",
    "read_hrsc_labels",
    "read_image",
    "read_info",
    "read_labels",
    "read_log",
    "read_overlap_log",
    "room_fragments",
    "rotation_about_fixed_axes",
    "shaken",
    "shares_inside",
    "split_dota",
    "turned",
    "uniform_augmentation",
    "unrelated_pair",
    "windows",
    "write_dota",
    "write_indoor_rooms",
    "write_info",
    "write_labels",
    "write_log",
    "write_overlap_log",
]
