"""Describe the model and callbacks of a run, without training, for a driver that compares them with a finished run.

Runs in a rank process.
"""

from __future__ import annotations

from sparkdl.launch.world import World
from sparkdl.train.exact.collective import join_world
from sparkdl.train.rank.built_model import built_model
from sparkdl.train.rank.facts import callback_facts, metric_directions, model_facts, weight_facts
from sparkdl.train.run.made_by import MadeBy
from sparkdl.train.spec import TrainSpec

__all__ = ["describe"]


def describe(task: TrainSpec, here: World) -> MadeBy:
    """Build the model as it is when training starts, and describe it and the callbacks."""
    join_world(here)
    model, _ = built_model(task)
    facts = model_facts(model)
    weights = weight_facts(model)
    callbacks = task.config.callbacks() if task.config.callbacks else []
    return MadeBy(
        code=task.code,
        model=facts,
        callbacks=callback_facts(callbacks),
        directions=metric_directions(model),
        weights=weights,
    )
