"""How likely a pose is right: a logistic model of what speaks for it, fitted to generated rooms.

`examples/benchmarks/calibrate.py` fits the coefficients; `weights/verdict/calibration.json` holds them, with the curve
that was measured on rooms the fit has not seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .canonical import OCCUPIED_VOXELS
from .estimators import Matches, inliers, places
from .search import Candidate
from .verify import Observability

CALIBRATION = Path(__file__).parent / "weights" / "verdict" / "calibration.json"


# Clouds that leave fewer keypoints in both views have a model of their own: fewer places say the same, and surfaces of
# few points coincide less well.
SPARSE = OCCUPIED_VOXELS // 2
# Of places and of overlap: below, their ratio is noise.
_FEW, _NARROW = 0.2, 0.03


def _ratio(value: float) -> float:
    return math.log(value + 0.02)


# What each number says on the scale of log-odds, up to its weight: all of these rise, and no weight is negative. How
# firmly surfaces hold a pose and whether it has rivals is not among them: such a pose is not less likely but ambiguous,
# and the verdict says so.
TERMS: Mapping[str, Callable[[float], float]] = {
    "classic_places": math.log1p,
    "classic_density": _ratio,
    "classic_share": _ratio,
    "network_places": math.log1p,
    "network_density": _ratio,
    "network_share": _ratio,
    "coherence": _ratio,
    "agreement": _ratio,
}


def evidence_of(best: Candidate, firmness: Observability | None, rival: float, keypoints: int) -> dict[str, float]:
    """What speaks for a pose, and what against it.

    Args:
        best: the pose with its correspondences.
        firmness: observability of the pose, None if nothing overlaps.
        rival: how nearly another pose explains the scans as well.
        keypoints: of the larger view: more of them raise chance agreement too.
    Returns:
        `<engine>_places`: places whose correspondences agree on the pose, weighted, as with the usual number of
        `keypoints`. `<engine>_density`: the same for an overlap of 1: wide surfaces that meet where few places look
        alike speak against a pose. `<engine>_share`: share of the engine's correspondences that agree. `overlap` of the
        view that has less; `coherence` and `agreement` of `verify.Evidence`; `hold`: `Observability.strength`; `rival`.
    """
    chance = max(1.0, keypoints / OCCUPIED_VOXELS) ** 0.5
    surfaces = best.evidence
    overlap = min(surfaces.overlap_source, surfaces.overlap_target)
    found = {"keypoints": float(keypoints)}
    for engine, matches in best.putative.by_engine().items():
        count = places(matches, best.pose) / chance
        found[f"{engine}_places"] = count
        found[f"{engine}_density"] = (count + _FEW) / (overlap + _NARROW)
        found[f"{engine}_share"] = _agreeing(matches, best.pose)
    return found | {
        "overlap": overlap,
        "coherence": surfaces.coherence,
        "agreement": surfaces.agreement,
        "hold": firmness.strength if firmness is not None else 0.0,
        "rival": rival,
    }


def _agreeing(matches: Matches, pose: np.ndarray) -> float:
    return float(inliers(matches, pose).mean()) if len(matches) else 0.0


def confidence_of(evidence: Mapping[str, float]) -> float:
    """Probability that a pose with this evidence is right.

    Args:
        evidence: of `evidence_of`, from the classic engine, the network, or both.
    """
    return confidence_with(calibration()[model_name(evidence)], evidence)


def confidence_with(model: Mapping[str, Any], evidence: Mapping[str, float]) -> float:
    """The same by another model: `bias`, and `weights` by the names of `TERMS`.

    >>> confidence_with({"bias": 0.0, "weights": {"classic_places": 2.0}}, {"classic_places": 0.0})
    0.5
    """
    odds = model["bias"] + sum(weight * TERMS[name](evidence[name]) for name, weight in model["weights"].items())
    return 1.0 / (1.0 + math.exp(-max(odds, -700.0)))


def model_name(evidence: Mapping[str, float]) -> str:
    """The engines that an evidence is from, and whether it is of sparse clouds."""
    engines = "+".join(engine for engine in ("classic", "network") if f"{engine}_places" in evidence)
    return f"{engines}, sparse" if evidence["keypoints"] < SPARSE else engines


@cache
def calibration() -> Mapping[str, Mapping[str, Any]]:
    """Bias and weights by `model_name`, as they come with the package."""
    models: Mapping[str, Mapping[str, Any]] = json.loads(CALIBRATION.read_text(encoding="utf-8"))["models"]
    return models
