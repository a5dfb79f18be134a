"""Correspondences between two views by a trained RoITr, and the checkpoint that comes with the package."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from .matching import merge_matches
from .pairs import CloudPair, PairBatch
from .roitr import RoITr
from .view import View

BUNDLED = Path(__file__).parent / "weights" / "roitr_small"
# Consensus looks at all pairs of matches.
MOST_MATCHES = 3000


@cache
def bundled_roitr() -> RoITr:
    """The RoITr that comes with the package, trained on generated rooms; read once."""
    return RoITr.from_pretrained(BUNDLED).eval().requires_grad_(False)


def learned_matches(source: View, target: View, network: RoITr) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the source, rows of the target, and confidences in (0, 1] of their matches, all (M,).

    Args:
        source, target: views in voxels.
        network: trained with the voxel as its unit (`config.voxel`).
    Raises:
        ValueError: a network that takes metres.
    """
    unit = network.config.voxel
    if unit is None:
        raise ValueError("network: expected one trained with the voxel as its unit (config.voxel), got one for metres")
    points = [torch.from_numpy(view.points * unit) for view in (source, target)]
    normals = [torch.from_numpy(np.ascontiguousarray(view.normals)) for view in (source, target)]
    threads = torch.get_num_threads()
    try:
        # Products of matrices are summed in another order by another number of threads.
        torch.set_num_threads(1)
        batch = PairBatch.build(
            [CloudPair(points[0], normals[0], points[1], normals[1])], network.config, inverse=False
        )
        found = network.match(batch)[0]
    finally:
        torch.set_num_threads(threads)
    merged = merge_matches(found.source, found.target, found.confidence, found.patch, combine="max")
    best = merged.confidence.argsort(descending=True, stable=True)[:MOST_MATCHES]
    return tuple(each[best].numpy() for each in (merged.source, merged.target, merged.confidence))  # type: ignore[return-value]
