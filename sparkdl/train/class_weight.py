"""Resolve the weights of classes, given by name or by code. Pure; used on the driver, to refuse early, and in ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparkdl.data.dataset import Dataset
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.errors import ConfigError, DatasetError, near_miss, shown

__all__ = ["ClassWeights", "class_weights", "upgraded"]


ClassWeights = tuple[float, ...] | dict[str, tuple[float, ...]]
"""The weight of every class of the one label by its code; or of each label that has such weights, by its name."""


def class_weights(given: Mapping[Any, Any] | None, dataset: Dataset) -> ClassWeights | None:
    """Return the weight of every class in the order of the codes; 1 for a class that is not named. None for None.

    A key that is a class means that class; another key is a code, if the classes are not whole numbers. Keys of weights
    by output name labels.

    Raises:
        ConfigError: the label is not a single categorical one, or one of several that are named; a name is not a class,
            or may mean two of them.
    """
    if given is None:
        return None
    labels = {label.name: label for label in dataset.label_encoders}
    by_output = all(isinstance(weights, Mapping) for weights in given.values())
    if not by_output:
        if len(dataset.label_encoders) != 1 or not isinstance(dataset.label_encoders[0], CategoricalEncoder):
            raise ConfigError(
                "class_weight is for a dataset with one categorical label, or a dict of such weights by output, as in "
                "{'kind': {'cat': 2.0}}; use PrepareConfig(weight=…) for rows"
            )
        return _weights_of(given, dataset.label_encoders[0].vocabulary, dataset.path)
    for name in given:
        if not isinstance(labels.get(str(name)), CategoricalEncoder):
            categorical = [known for known, label in labels.items() if isinstance(label, CategoricalEncoder)]
            raise ConfigError(
                f"class_weight names the output {shown(name)}, which is not a categorical label of {dataset.path}"
                + near_miss(str(name), categorical)
            )
    found = {str(n): _weights_of(some, labels[str(n)].vocabulary, dataset.path) for n, some in given.items()}  # type: ignore[attr-defined]
    return found if len(labels) > 1 else next(iter(found.values()))


def _weights_of(given: Mapping[str | int, float], classes: Sequence[str | int], path: str) -> tuple[float, ...]:
    """Return the weight of every class of one label."""
    weights = [1.0] * len(classes)
    for name, weight in given.items():
        if name in classes:
            weights[classes.index(name)] = float(weight)
        elif isinstance(name, int) and not isinstance(classes[0], int) and 0 <= name < len(classes):
            if str(name) in classes and classes[name] != str(name):
                raise ConfigError(
                    f"class_weight names {name}, which may be the class {str(name)!r} or the code of class "
                    f"{classes[name]!r}; write {str(name)!r} or {classes[name]!r}"
                )
            weights[name] = float(weight)
        else:
            raise ConfigError(
                f"class_weight names {shown(name)}, which is not a class of {path}"
                + near_miss(str(name), [str(known) for known in classes])
            )
    return tuple(weights)


def upgraded(options: Mapping[str, Any], *, dataset: Dataset) -> dict[str, Any]:
    """Return recorded options with the class weights by code: older runs recorded them by name or code, as given.

    Ambiguous weights stay as they are, and so differ from any weights that are given now.
    """
    given = options.get("class_weight")
    if not isinstance(given, Mapping) or any(isinstance(weights, list) for weights in given.values()):
        return dict(options)
    try:
        weights: Any = class_weights(
            {_as_given(name, dataset.classes): weight for name, weight in given.items()}, dataset
        )
    except (ConfigError, DatasetError):
        return dict(options)
    return {**options, "class_weight": None if weights is None else list(weights)}


def _as_given(name: str, classes: Sequence[str | int]) -> str | int:
    """Return a key as it was before JSON made it a string; an ambiguous key as a code, which is refused."""
    if not name.lstrip("-").isdigit():
        return name
    code = int(name)
    if name in classes and not (0 <= code < len(classes) and classes[code] != name):
        return name
    return code  # `class_weights` refuses one that may be a name, too
