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
    "BenchmarkRotation",
    "DeformingPair",
    "DepthCamera",
    "FourDMatch",
    "Fragment",
    "IndoorScenes",
    "RegistrationPair",
    "ThreeDMatch",
    "benchmark_rotation",
    "benchmark_turned",
    "indoor_fragment",
    "indoor_pair",
    "measured_overlap",
    "published_augmentation",
    "random_crop",
    "random_subset",
    "room_fragments",
    "rotation_about_fixed_axes",
    "shaken",
    "turned",
    "uniform_augmentation",
    "unrelated_pair",
    "write_indoor_rooms",
]
