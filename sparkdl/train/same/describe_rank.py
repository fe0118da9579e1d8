"""Build a model and callbacks in one rank, without training, and tell what they are.

Runs in a rank process, started by `fit` for a finished run; imports TensorFlow when it is called.
"""

from __future__ import annotations

from sparkdl.train.rank.built_model import built_model
from sparkdl.train.rank.trainer import start_rank
from sparkdl.train.same.made_by import MadeBy
from sparkdl.train.spec import TrainTask

__all__ = ["describe_rank"]


def describe_rank(task: TrainTask) -> MadeBy:
    """What the run would be made by: the model as it is when training starts, and the callbacks."""
    here = start_rank()
    from sparkdl.train.exact.collective import join_world
    from sparkdl.train.same.describe import callback_facts, metric_directions, model_facts, weight_facts

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
