"""The weights of classes: by name, or by code.

Pure; used on the driver, to refuse early, and in ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

from sparkdl.data.dataset import Dataset
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.errors import ConfigError, near_miss, shown

__all__ = ["class_weights"]


def class_weights(given: Mapping[str | int, float] | None, dataset: Dataset) -> tuple[float, ...] | None:
    """The weight of every class in the order of the codes; 1 for a class that is not named. None for None.

    A class is meant where the name is one, else a code (for classes that are no whole numbers).

    Raises:
        ConfigError: the label is no single categorical one; a name is no class.
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
            weights[name] = float(weight)
        else:
            raise ConfigError(
                f"class_weight names {shown(name)}, which is no class of {dataset.path}"
                + near_miss(str(name), [str(known) for known in classes])
            )
    return tuple(weights)
