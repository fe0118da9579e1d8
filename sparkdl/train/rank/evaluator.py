"""Evaluate a saved model on one rank's share of a split. Runs in a rank process."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from sparkdl.data.feed.tensors import step_dataset
from sparkdl.launch.world import World
from sparkdl.model.load import load_keras
from sparkdl.model.signature import Signature
from sparkdl.train.checks.check_model import build, check_model
from sparkdl.train.exact.collective import join_world
from sparkdl.train.exact.instrument import StepOptions, exact_steps
from sparkdl.train.exactness.judge import judge
from sparkdl.train.rank.built_model import example_of
from sparkdl.train.rank.rank_feed import rank_feed
from sparkdl.train.spec import EvaluateSpec

__all__ = ["evaluate"]


def evaluate(task: EvaluateSpec, here: World) -> dict[str, Any]:
    """Evaluate on this rank's share of the rows. Returns loss and metrics over all rows, the same on every rank."""
    join_world(here)
    signature = Signature.read(task.model_dir)
    keras.config.set_floatx(signature.floatx)
    model = load_keras(task.model_dir, signature, custom_objects=task.custom_objects, safe_mode=task.safe_mode)
    check_model(model)
    example = example_of(task.dataset, signature.target)
    build(model, example)
    split = task.dataset.split(task.split)
    findings = judge(
        model,
        task.dataset,
        split,
        here,
        exactness=task.exactness,
        target=signature.target,
        global_batch_size=task.global_batch_size,
        training=False,
    )
    options = StepOptions(findings=findings, per_worker=task.exactness == "per_worker")
    feed = rank_feed(task.dataset, split, here, global_batch_size=task.global_batch_size, seed=None)
    with exact_steps(model, here, example, options):
        data = step_dataset(feed, task.dataset.layout, [0], target=signature.target)
        logs = model.evaluate(data, steps=feed.plan(0).steps, verbose=0, return_dict=True)
    return {name: np.asarray(value).tolist() for name, value in logs.items()}
