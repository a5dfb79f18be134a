"""RoITr: correspondences between two clouds, the same however the clouds are turned."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from rotaware.geo.numerics import matmul, upcast
from rotaware.kernels import log_optimal_transport

from .checkpoints import load_pretrained, load_published, save_pretrained
from .global_transformer import GlobalTransformer
from .matching import NodeMatches, gather_patches, match_nodes, match_nodes_adaptive, mutual_top_k
from .pairs import PairBatch
from .roitr_backbone import Backbone
from .roitr_config import RoITrConfig


class RoITrOutput(NamedTuple):
    """Descriptors, in the order of `PairBatch.nodes` and `PairBatch.points`."""

    node_features: Tensor  # (S, widths[-1]), unit rows, which know both clouds of their pair
    point_features: Tensor  # (N, point_channels), which know their own cloud


class PointMatches(NamedTuple):
    """Correspondences of one pair."""

    source: Tensor  # (M,) int64 rows of the source
    target: Tensor  # (M,) int64 rows of the target
    confidence: Tensor  # (M,) in (0, 1]
    patch: Tensor  # (M,) int64, which of `nodes` it was found in
    nodes: NodeMatches  # matched superpoints, and how they scored


class RoITr(nn.Module):
    """Rotation-invariant transformer for point cloud matching.

    Takes clouds with normals and nothing else, and gives descriptors that do not change when a cloud is turned or
    moved; `match` makes correspondences of them. The default configuration is the published network for 3DMatch, and
    `from_published` loads its weights.

    >>> from rotaware.pointcloud.pairs import CloudPair
    >>> normals = normalize(torch.randn(300, 3), dim=1)
    >>> pair = CloudPair(torch.rand(300, 3), normals, torch.rand(300, 3), normals)
    >>> model = RoITr(RoITrConfig(widths=(16, 16, 32, 32), point_channels=32)).eval()
    >>> batch = PairBatch.build([pair], model.config)
    >>> output = model(batch)
    >>> output.node_features.shape, output.point_features.shape
    (torch.Size([8, 32]), torch.Size([600, 32]))
    >>> len(model.match(batch, output))
    1

    Source: Yu et al., "Rotation-Invariant Transformer for Point Cloud Matching", CVPR 2023.
    """

    def __init__(self, config: RoITrConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RoITrConfig()
        width = config.widths[-1]
        self.backbone = Backbone(config)
        self.global_transformer = GlobalTransformer(
            width,
            heads=config.heads,
            layers=config.global_layers,
            distance_scale=config.distance_scale,
            angle_scale=config.angle_scale,
        )
        self.node_head = nn.Linear(width, width)
        self.point_head = nn.Linear(config.widths[0], config.point_channels)
        self.slack = nn.Parameter(torch.tensor(1.0))

    def forward(self, batch: PairBatch) -> RoITrOutput:
        """Descriptors of all clouds of a batch."""
        nodes, points = self.backbone(batch.pyramid)
        nodes = batch.pyramid.restore(nodes, level=len(batch.pyramid.levels) - 1)
        clouds = nodes.split(list(batch.node_lengths))
        known = []
        for pair in range(len(batch)):
            pick = slice(2 * pair, 2 * pair + 2)
            known += self.global_transformer(clouds[pick], batch.geometry[pick])
        node_features = normalize(self.node_head(torch.cat(known)), dim=1)
        return RoITrOutput(node_features, batch.pyramid.restore(self.point_head(points)))

    def match_superpoints(self, batch: PairBatch, output: RoITrOutput, pair: int) -> NodeMatches:
        """Superpoints of one pair that look alike, by the rule of the configuration."""
        source, target = batch.node_rows(pair, "source"), batch.node_rows(pair, "target")
        features = output.node_features
        masks: dict[str, Any] = {
            "target_mask": batch.groups.node_mask[target],
            "source_mask": batch.groups.node_mask[source],
        }
        config = self.config
        if config.node_matching == "adaptive":
            return match_nodes_adaptive(
                features[target], features[source], least=config.patch_pairs, distance=config.node_distance, **masks
            )
        return match_nodes(features[target], features[source], count=config.patch_pairs, **masks)

    def transport(
        self, batch: PairBatch, output: RoITrOutput, pair: int, target_nodes: Tensor, source_nodes: Tensor
    ) -> Tensor:
        """Log transport plans between patches of one pair.

        Args:
            target_nodes, source_nodes: (P,) superpoints of the pair's clouds.
        Returns:
            (P, K + 1, K + 1), at least float32; rows of the target and the slack, columns of the source and the slack.
        """
        gathered, masks = [], []
        for side, nodes in (("target", target_nodes), ("source", source_nodes)):
            patches = batch.patches(pair, side)  # type: ignore[arg-type]
            features = output.point_features[batch.rows(pair, side)]  # type: ignore[arg-type]
            gathered.append(gather_patches(features, patches.index[nodes]))
            masks.append(patches.mask[nodes])
        # Also under autocast: of scores in half precision the plan would keep no digit.
        scores = matmul(upcast(gathered[0]), upcast(gathered[1]).transpose(1, 2)) / math.sqrt(gathered[0].shape[2])
        return log_optimal_transport(scores, self.slack, masks[0], masks[1], iterations=self.config.sinkhorn_iterations)

    @torch.no_grad()
    def match(self, batch: PairBatch, output: RoITrOutput | None = None) -> list[PointMatches]:
        """Correspondences of each pair of a batch; of the output of `forward`, which is computed if it is not given.

        The same two points may match through several patches; `rotaware.pointcloud.merge_matches` makes one of them.
        """
        output = self(batch) if output is None else output
        found = []
        for pair in range(len(batch)):
            nodes = self.match_superpoints(batch, output, pair)
            target, source = batch.patches(pair, "target"), batch.patches(pair, "source")
            plan = self.transport(batch, output, pair, nodes.target, nodes.source)
            matches = mutual_top_k(
                plan,
                target.mask[nodes.target],
                source.mask[nodes.source],
                k=self.config.top_k,
                threshold=self.config.threshold,
            )
            target_rows = target.index[nodes.target][matches.patch, matches.row]
            source_rows = source.index[nodes.source][matches.patch, matches.column]
            found.append(PointMatches(source_rows, target_rows, matches.confidence, matches.patch, nodes))
        return found

    @classmethod
    def from_published(
        cls, weights: str | PathLike[str] | dict[str, Tensor], config: RoITrConfig | None = None
    ) -> RoITr:
        """The authors' checkpoint: a file of theirs, or its state dict.

        Args:
            weights: path, read without running any code in it, or tensors by their published names.
            config: None chooses the published network, rigid or non-rigid, by the widths of the tensors.
        Raises:
            FileNotFoundError: no such file.
            ValueError: not a checkpoint; missing, additional or misshapen tensors, all of them listed.
        """
        tensors, published = load_published(weights)
        model = cls(config or published)
        _load(model, tensors)
        return model

    @classmethod
    def from_pretrained(cls, path: str | PathLike[str]) -> RoITr:
        """A checkpoint that `save_pretrained` wrote.

        Args:
            path: the folder, with `config.json` and `model.safetensors`.
        Raises:
            FileNotFoundError: no such folder or file.
            ValueError: a damaged file, a hash that differs from the one in config.json, or tensors that do not fit.
        """
        tensors, config = load_pretrained(path)
        model = cls(config)
        _load(model, tensors)
        return model

    def save_pretrained(
        self, path: str | PathLike[str], *, dtype: torch.dtype = torch.float32, notes: dict[str, Any] | None = None
    ) -> None:
        """Write `config.json` and `model.safetensors`, each whole or not at all.

        Args:
            path: folder, made if it does not exist.
            dtype: of the stored weights; float16 halves the file.
            notes: whatever should be known about these weights, such as recipe and accuracy.

        >>> import tempfile
        >>> model = RoITr(RoITrConfig(widths=(8, 8), strides=(1, 4), neighbors=(4, 4), blocks=(0, 0), point_channels=8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     again = RoITr.from_pretrained(folder)
        >>> again.config == model.config
        True
        """
        save_pretrained(path, self.state_dict(), self.config, dtype=dtype, notes=notes)


def _load(model: RoITr, tensors: dict[str, Tensor]) -> None:
    """Load all tensors, or raise with every one that does not fit."""
    expected = model.state_dict()
    wrong = [f"missing {name} {tuple(tensor.shape)}" for name, tensor in expected.items() if name not in tensors]
    wrong += [f"unexpected {name} {tuple(tensor.shape)}" for name, tensor in tensors.items() if name not in expected]
    wrong += [
        f"{name}: expected shape {tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if wrong:
        raise ValueError(f"checkpoint: {len(wrong)} tensors do not fit:\n  " + "\n  ".join(wrong))
    model.load_state_dict(tensors)
