"""Datasets and generators of them: one file per dataset."""

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
from .fourdmatch import DeformingPair, FourDMatch
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
    "LogEntry",
    "RegistrationPair",
    "ThreeDMatch",
    "benchmark_rotation",
    "benchmark_turned",
    "check_dataset",
    "disjoint_pairs",
    "indoor_fragment",
    "indoor_pair",
    "measured_overlap",
    "open_benchmark",
    "published_augmentation",
    "random_crop",
    "random_subset",
    "read_info",
    "read_log",
    "read_overlap_log",
    "room_fragments",
    "rotation_about_fixed_axes",
    "shaken",
    "turned",
    "uniform_augmentation",
    "unrelated_pair",
    "write_indoor_rooms",
    "write_info",
    "write_log",
    "write_overlap_log",
]
