"""Build the model of a run as it is when training starts. Runs in rank processes."""

from __future__ import annotations

from typing import Any

import keras

from sparkdl.data.dataset import Dataset
from sparkdl.train.checks.check_model import build, check_model
from sparkdl.train.exact.optimizers import accumulate_gradients
from sparkdl.train.spec import TrainSpec

__all__ = ["built_model", "example_of"]


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


def example_of(dataset: Dataset, target: str = "label") -> tuple[Any, ...]:
    """Describe a batch symbolically: (inputs, targets) or (inputs, targets, weights), the number of rows left open."""
    symbols = {f.key: keras.KerasTensor((None, *f.shape), f.dtype) for f in dataset.layout.fields}

    def of_role(role: str) -> Any:
        named = {field.name: symbols[field.key] for field in dataset.layout.of_role(role)}
        return named if len(named) != 1 else next(iter(named.values()))

    weights = [of_role("weight")] if dataset.weight else []
    return of_role("feature"), of_role("feature" if target == "inputs" else "label"), *weights
