"""What a RoITr is made of, as numbers that go into a checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from rotaware.geo.checks import require_choice

PairFeatureKind = Literal["ppf", "signed_ppf"]
NodeMatching = Literal["dual_normalised", "adaptive"]

# Integers, and the least that each may be.
_WHOLE = {
    "heads": 1,
    "global_layers": 0,
    "point_channels": 1,
    "angle_neighbors": 0,
    "patch_points": 1,
    "patch_pairs": 1,
    "top_k": 1,
    "sinkhorn_iterations": 1,
}
_POSITIVE = ("distance_scale", "angle_scale", "voxel")
_NOT_NEGATIVE = ("node_distance", "threshold", "tie_tolerance")
_OPTIONAL = ("voxel", "tie_tolerance")
# Lengths this near are equal, by default: above the rounding of float32, below the steps between the distances of
# neighbors on a lattice of 2 mm.
_TIED_METRES, _TIED_VOXELS = 2e-6, 5e-5


@dataclass(frozen=True)
class RoITrConfig:
    """Sizes and constants of a RoITr; the defaults are the published network for rigid scenes (3DMatch).

    Lengths are in the unit of the points. `voxel` names that unit: a network with `voxel=None` was trained on metres;
    one with a number expects clouds scaled so that the voxel they were thinned with has that length, whatever it is in
    reality, and so serves every scale.

    Attributes:
        widths: channels of the four levels, fine to coarse; the last is also the width of the global transformer.
        strides: ratio of each level's points to the finer one's.
        neighbors: neighbors of a point in local attention, per level.
        blocks: same-resolution blocks per level of the encoder.
        heads: of every attention.
        global_layers: self and cross layers of the global transformer, counted in pairs.
        point_channels: width of a point's descriptor.
        pair_features: "ppf" as published, or "signed_ppf", which tells a scene from its mirror image.
        distance_scale: of the distances among superpoints (sigma_d).
        angle_scale: of the angles among superpoints, degrees (sigma_a).
        angle_neighbors: superpoints that span those angles.
        patch_points: points of a superpoint's patch, at most.
        node_matching: the largest entries of the dual-normalised scores, or all pairs nearer than `node_distance` and
            at least `patch_pairs` (4DMatch).
        patch_pairs: pairs of patches that are matched.
        node_distance: of descriptors, for adaptive matching.
        top_k: partners of a point, both ways.
        threshold: least confidence of a match.
        sinkhorn_iterations: of the optimal transport between two patches.
        voxel: see above.
        tie_tolerance: lengths that differ by no more are equal and the lower row is taken, so that scans on a lattice
            give the same neighbors in every pose. None for 2e-6 m, or 5e-5 voxels where `voxel` is given; rounding to
            float32 stays below that up to 8 m, or 200 voxels, from the origin. 0 for the published behaviour.

    >>> RoITrConfig().widths, RoITrConfig.nonrigid().widths
    ((64, 128, 256, 256), (128, 256, 512, 512))
    """

    widths: tuple[int, ...] = (64, 128, 256, 256)
    strides: tuple[int, ...] = (1, 4, 4, 4)
    neighbors: tuple[int, ...] = (8, 16, 16, 16)
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    heads: int = 4
    global_layers: int = 3
    point_channels: int = 256
    pair_features: PairFeatureKind = "ppf"
    distance_scale: float = 0.2
    angle_scale: float = 15.0
    angle_neighbors: int = 3
    patch_points: int = 64
    node_matching: NodeMatching = "dual_normalised"
    patch_pairs: int = 256
    node_distance: float = 0.75
    top_k: int = 3
    threshold: float = 0.05
    sinkhorn_iterations: int = 100
    voxel: float | None = None
    tie_tolerance: float | None = None

    def __post_init__(self) -> None:
        for name in ("widths", "strides", "neighbors", "blocks"):
            values = getattr(self, name)
            least = 0 if name == "blocks" else 1
            if not isinstance(values, (tuple, list)) or not all(_is_whole(value, least) for value in values):
                raise ValueError(f"{name}: expected integers of at least {least}, got {values!r}")
            object.__setattr__(self, name, tuple(values))
            if len(values) != len(self.widths) or len(values) < 2:
                raise ValueError(
                    f"{name}: expected one number for each of two or more levels, got {len(values)} for "
                    f"{len(self.widths)} widths"
                )
        for name, least in _WHOLE.items():
            if not _is_whole(getattr(self, name), least):
                raise ValueError(f"{name}: expected an integer of at least {least}, got {getattr(self, name)!r}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if not (name in _OPTIONAL and value is None) and not (_is_number(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value!r}")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if not (name in _OPTIONAL and value is None) and not (_is_number(value) and value >= 0):
                raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
        if any(width % self.heads for width in self.widths):
            raise ValueError(f"heads: expected a divisor of the widths {self.widths}, got {self.heads}")
        require_choice("pair_features", self.pair_features, ("ppf", "signed_ppf"))
        require_choice("node_matching", self.node_matching, ("dual_normalised", "adaptive"))

    @classmethod
    def rigid(cls, **changes: Any) -> RoITrConfig:
        """The published network for 3DMatch: 10 102 273 parameters."""
        return cls(**changes)

    @classmethod
    def nonrigid(cls, **changes: Any) -> RoITrConfig:
        """The published network for 4DMatch, twice as wide: 40 258 561 parameters.

        >>> RoITrConfig.nonrigid().node_matching
        'adaptive'
        """
        published: dict[str, Any] = {
            "widths": (128, 256, 512, 512),
            "point_channels": 512,
            "node_matching": "adaptive",
            "patch_pairs": 128,
            "top_k": 2,
        }
        return cls(**{**published, **changes})

    @property
    def tied(self) -> float:
        """`tie_tolerance`, or what None stands for, in the unit of the points.

        >>> RoITrConfig().tied, RoITrConfig(voxel=1.0).tied, RoITrConfig(voxel=1.0, tie_tolerance=0.0).tied
        (2e-06, 5e-05, 0.0)
        """
        if self.tie_tolerance is not None:
            return self.tie_tolerance
        return _TIED_METRES if self.voxel is None else _TIED_VOXELS * self.voxel

    @property
    def pair_channels(self) -> int:
        """Numbers per pair of points."""
        return 4 if self.pair_features == "ppf" else 5

    def to_json(self) -> str:
        """The configuration as text.

        >>> RoITrConfig.from_json(RoITrConfig().to_json()) == RoITrConfig()
        True
        """
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> RoITrConfig:
        """The configuration that `to_json` wrote.

        Raises:
            ValueError: not JSON, a name that is unknown, or a value that does not fit.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"configuration: expected JSON, got {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"configuration: expected a JSON object, got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"configuration: expected the names {sorted(known)}, got also {unknown}")
        return cls(**values)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
