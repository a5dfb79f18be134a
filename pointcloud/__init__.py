"""From two files to a trusted pose: reading clouds, registering them, reporting the evidence."""

from .cloud import Layout, PointCloud
from .errors import InputError, UnreadableFileError
from .io import output_extension, read_point_cloud, write_point_cloud
from .registration import register
from .report import write_overview_png, write_report_html
from .result import (
    Check,
    CloudSummary,
    Correspondences,
    Hypothesis,
    Metrics,
    Notice,
    Registration,
    Stage,
)
from .robust import PoseEstimate, local_to_global_registration, ransac, weighted_procrustes
from .units import guess_unit

__all__ = [
    "Check", "CloudSummary", "Correspondences", "Hypothesis", "InputError", "Layout", "Metrics", "Notice",
    "PointCloud", "PoseEstimate", "Registration", "Stage", "UnreadableFileError", "guess_unit",
    "local_to_global_registration", "output_extension", "ransac", "read_point_cloud", "register",
    "weighted_procrustes", "write_overview_png", "write_point_cloud", "write_report_html",
]  # fmt: skip
