"""From two files to a trusted pose: reading clouds, registering them, reporting the evidence."""

# Packed by hand, so that a page shows what there is.
# isort: off
# fmt: off
from .cloud import Layout, PointCloud
from .errors import InputError, UnreadableFileError
from .evaluation import evaluate
from .evaluation_report import write_report
from .evaluation_summary import summarise
from .io import output_extension, read_point_cloud, write_point_cloud
from .losses import circle_loss, point_loss
from .matching import (
    MergedMatches, NodeMatches, PatchMatches, match_nodes, match_nodes_adaptive, merge_matches, mutual_top_k,
    sample_matches,
)
from .methods import METHODS, Answer, MatchedPoints, named_method
from .metrics import (
    expected_calibration_error, feature_matching_recall, information_rmse, inlier_ratio, is_registered,
    is_registered_3dmatch, is_registered_rotated, mean_displacement, nonrigid_feature_matching_recall, overlap_rmse,
    patch_inlier_ratio, rotation_error_deg, translation_error,
)
from .multiway import MultiwayResult, register_many
from .objective import Losses, Quality, RoITrObjective
from .pairs import CloudPair, PairBatch
from .patches import Patches, patches_of
from .preparation import network_pair
from .registration import register
from .report import write_overview_png, write_report_html
from .result import Check, CloudSummary, Correspondences, Hypothesis, Metrics, Notice, Registration, Stage
from .robust import PoseEstimate, local_to_global_registration, ransac, weighted_procrustes
from .roitr import PointMatches, RoITr, RoITrOutput
from .roitr_config import RoITrConfig
from .supervision import NodeOverlaps, PointLabels, node_overlaps, point_labels, sample_node_pairs
from .units import guess_unit

__all__ = [
    "METHODS",
    "Answer",
    "Check",
    "CloudPair",
    "CloudSummary",
    "Correspondences",
    "Hypothesis",
    "InputError",
    "Layout",
    "Losses",
    "MatchedPoints",
    "MergedMatches",
    "Metrics",
    "MultiwayResult",
    "NodeMatches",
    "NodeOverlaps",
    "Notice",
    "PairBatch",
    "PatchMatches",
    "Patches",
    "PointCloud",
    "PointLabels",
    "PointMatches",
    "PoseEstimate",
    "Quality",
    "Registration",
    "RoITr",
    "RoITrConfig",
    "RoITrObjective",
    "RoITrOutput",
    "Stage",
    "UnreadableFileError",
    "circle_loss",
    "evaluate",
    "expected_calibration_error",
    "feature_matching_recall",
    "guess_unit",
    "information_rmse",
    "inlier_ratio",
    "is_registered",
    "is_registered_3dmatch",
    "is_registered_rotated",
    "local_to_global_registration",
    "match_nodes",
    "match_nodes_adaptive",
    "mean_displacement",
    "merge_matches",
    "mutual_top_k",
    "named_method",
    "network_pair",
    "node_overlaps",
    "nonrigid_feature_matching_recall",
    "output_extension",
    "overlap_rmse",
    "patch_inlier_ratio",
    "patches_of",
    "point_labels",
    "point_loss",
    "ransac",
    "read_point_cloud",
    "register",
    "register_many",
    "rotation_error_deg",
    "sample_matches",
    "sample_node_pairs",
    "summarise",
    "translation_error",
    "weighted_procrustes",
    "write_overview_png",
    "write_point_cloud",
    "write_report",
    "write_report_html",
]
