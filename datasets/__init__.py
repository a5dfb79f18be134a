"""Datasets and generators of them: one file per dataset."""

from .depth_camera import DepthCamera
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
    "DepthCamera",
    "Fragment",
    "IndoorScenes",
    "RegistrationPair",
    "ThreeDMatch",
    "indoor_fragment",
    "indoor_pair",
    "measured_overlap",
    "room_fragments",
    "unrelated_pair",
    "write_indoor_rooms",
]
