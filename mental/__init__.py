"""Mental rotation: two objects are compared by what can be said about them, and turned until it can be said."""

from .agent import (
    AgentConfig,
    DecisionAgent,
    Decisions,
    Look,
    decide,
    known_description,
    mean_actions,
    train_agent,
)
from .renderer import Decoder, Encoder, EquivariantRenderer, RendererConfig, tilt, turned_by, view_change
from .vision import VisionConfig, VisionSymbolicModel, VolumeTransformer

__all__ = [
    "AgentConfig",
    "DecisionAgent",
    "Decisions",
    "Decoder",
    "Encoder",
    "EquivariantRenderer",
    "Look",
    "RendererConfig",
    "VisionConfig",
    "VisionSymbolicModel",
    "VolumeTransformer",
    "decide",
    "known_description",
    "mean_actions",
    "tilt",
    "train_agent",
    "turned_by",
    "view_change",
]
