"""Resolve the weights of classes, given by name or by code. Pure; used on the driver, to refuse early, and in ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparkdl.data.dataset import Dataset
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.errors import ConfigError, DatasetError, near_miss, shown

__all__ = ["class_weights", "upgraded"]


def class_weights(given: Mapping[str | int, float] | None, dataset: Dataset) -> tuple[float, ...] | None:
    """Return the weight of every class in the order of the codes; 1 for a class that is not named. None for None.

    A key that is a class means that class; another key is a code, if the classes are not whole numbers.

    Raises:
        ConfigError: the label is not a single categorical one; a name is not a class, or may mean two of them.
    """
    if given is None:
        return None
    labels = dataset.label_encoders
    if len(labels) != 1 or not isinstance(labels[0], CategoricalEncoder):
        raise ConfigError("class_weight is for a dataset with one categorical label; use PrepareConfig(weight=…)")
    classes = dataset.classes
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
                f"class_weight names {shown(name)}, which is not a class of {dataset.path}"
                + near_miss(str(name), [str(known) for known in classes])
            )
    return tuple(weights)


def upgraded(options: Mapping[str, Any], *, dataset: Dataset) -> dict[str, Any]:
    """Return recorded options with the class weights by code: older runs recorded them by name or code, as given.

    Ambiguous weights stay as they are, and so differ from any weights that are given now.
    """
    given = options.get("class_weight")
    if not isinstance(given, Mapping):
        return dict(options)
    try:
        weights = class_weights({_as_given(name, dataset.classes): weight for name, weight in given.items()}, dataset)
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
