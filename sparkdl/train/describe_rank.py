"""Build a model and callbacks in one rank, without training, and tell what they are.

Runs in a rank process, started by `fit` for a finished run; imports TensorFlow when it is called.
"""

from __future__ import annotations

from sparkdl.train.made_by import MadeBy
from sparkdl.train.spec import TrainTask
from sparkdl.train.trainer import _example, _start

__all__ = ["describe_rank"]


def describe_rank(task: TrainTask) -> MadeBy:
    """What the run would be made by: the model as it is when training starts, and the callbacks."""
    here = _start()
    import keras

    from sparkdl.train.check_model import build, check_model
    from sparkdl.train.collective import join_world
    from sparkdl.train.describe import callback_facts, metric_directions, model_facts
    from sparkdl.train.optimizers import accumulate_gradients

    join_world(here)
    keras.utils.set_random_seed(task.config.seed % 2**32)
    model = task.build_model(task.dataset)
    check_model(model)
    accumulate_gradients(model, task.config.gradient_accumulation_steps)
    build(model, _example(task.dataset, task.config.target))
    facts = model_facts(model)
    callbacks = task.config.callbacks() if task.config.callbacks else []
    return MadeBy(
        code=task.code, model=facts, callbacks=callback_facts(callbacks), directions=metric_directions(model)
    )
