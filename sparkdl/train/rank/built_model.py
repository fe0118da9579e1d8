"""Build the model of a run as it is when training starts, and describe it. Runs in rank processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras

from sparkdl.data.dataset import Dataset
from sparkdl.launch.world import World
from sparkdl.train.checks.check_model import build, check_model
from sparkdl.train.exact.collective import join_world
from sparkdl.train.exact.optimizers import accumulate_gradients
from sparkdl.train.rank.facts import callback_facts, metric_directions, model_facts, weight_facts
from sparkdl.train.run.made_by import MadeBy
from sparkdl.train.spec import TrainSpec
from sparkdl.user_code.fingerprint import code_digest

__all__ = ["built_model", "describe", "example_of", "model_made_by"]


def describe(task: TrainSpec, here: World) -> MadeBy:
    """Build the model of a run without training it, and describe it and the callbacks."""
    join_world(here)
    model, _ = built_model(task)
    made_by = model_made_by(task, model)
    return replace(made_by, callbacks=callback_facts(task.config.callbacks() if task.config.callbacks else []))


def built_model(task: TrainSpec) -> tuple[Any, tuple[Any, ...]]:
    """Build and check the model of a run. Returns the model and a symbolic batch (`example_of`). Raises ModelError."""
    dataset, config = task.dataset, task.config
    keras.utils.set_random_seed(config.seed % 2**32)
    model = task.build_model(dataset)
    check_model(model)
    accumulate_gradients(model, config.gradient_accumulation_steps)
    example = example_of(dataset, config.target)
    build(model, example, dataset.label_encoders if config.target == "label" else ())
    return model, example


def model_made_by(task: TrainSpec, model: Any) -> MadeBy:
    """Describe what a run is made by, without its callbacks; `model` is as `built_model` returned it."""
    return MadeBy(
        code=task.code,
        model=model_facts(model),
        callbacks=[],
        directions=metric_directions(model),
        weights=weight_facts(model),
        augment="" if task.config.augment is None else code_digest(task.config.augment),
    )


def example_of(dataset: Dataset, target: str = "label") -> tuple[Any, ...]:
    """Describe a batch symbolically: (inputs, targets) or (inputs, targets, weights), the number of rows left open."""
    symbols = {f.key: keras.KerasTensor((None, *f.shape), f.dtype) for f in dataset.layout.fields}

    def of_role(role: str) -> Any:
        named = {field.name: symbols[field.key] for field in dataset.layout.of_role(role)}
        return named if len(named) != 1 else next(iter(named.values()))

    weights = [of_role("weight")] if dataset.weight else []
    return of_role("feature"), of_role("feature" if target == "inputs" else "label"), *weights
