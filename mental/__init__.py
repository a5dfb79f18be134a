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

__all__ = [
    "AgentConfig",
    "DecisionAgent",
    "Decisions",
    "Look",
    "decide",
    "known_description",
    "mean_actions",
    "train_agent",
]
