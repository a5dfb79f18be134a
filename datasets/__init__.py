"""Datasets and generators of them: one file per dataset."""

from .depth_camera import DepthCamera
from .indoor_scenes import (
    Fragment,
    IndoorScenes,
    RegistrationPair,
    indoor_fragment,
    indoor_pair,
    measured_overlap,
    unrelated_pair,
)

__all__ = [
    "DepthCamera",
    "Fragment",
    "IndoorScenes",
    "RegistrationPair",
    "indoor_fragment",
    "indoor_pair",
    "measured_overlap",
    "unrelated_pair",
]
