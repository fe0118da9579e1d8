"""Prepare raw rows with a trained model's own encoders, for the time of an evaluation.

Runs on the driver; Spark encodes and writes the rows, as `prepare` does. Nothing is fitted.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

from sparkdl import storage
from sparkdl.data.dataset import Dataset
from sparkdl.data.prepare.plan import check_arguments
from sparkdl.data.prepare.prepare import prepare
from sparkdl.data.prepare_config import PrepareConfig
from sparkdl.errors import ConfigError, near_miss, shown
from sparkdl.model.signature import Signature
from sparkdl.spark.columns import require_column, require_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["SPLIT", "check_label", "is_frame", "prepared_rows"]

SPLIT = "train"
"""The split that holds the rows: a dataset that no rule divides has this one."""


def is_frame(rows: object) -> TypeGuard[DataFrame]:
    """Tell whether an argument is a DataFrame of Spark, classic or Connect."""
    return hasattr(rows, "sparkSession") and hasattr(rows, "mapInArrow")


@contextmanager
def prepared_rows(
    df: DataFrame,
    signature: Signature,
    *,
    label: str | Mapping[str, str] | None,
    weight: str | None,
    folder: str,
) -> Iterator[Dataset]:
    """Write raw rows as a dataset with the encoders of a model, and delete it after the block.

    Args:
        label: the column of the one label; or a dict, by label, of those columns that do not bear the label's name.
        weight: the column of the rows' weights, or None.
        folder: a folder or URL that all hosts see; it must not exist.

    Raises:
        ConfigError: `label` does not name the model's labels, or the model has none.
        SchemaError: a column is missing, or of values that its encoder refuses: a class that training did not see.
        DatasetError: no rows; the folder cannot be written.
    """
    columns = check_label(df, signature, label, weight)
    labels = tuple(encoder for encoder in signature.labels if encoder.name in columns)
    config = PrepareConfig(
        path=folder,
        features=signature.inputs,  # type: ignore[arg-type]
        label=labels or None,  # type: ignore[arg-type]
        weight=weight,
        version=uuid.uuid4().hex,  # nobody looks for this dataset again
    )
    check_arguments(df, config)
    try:
        yield prepare(_named(df, signature, columns, weight), config)
    finally:
        storage.delete(folder)


def check_label(df: DataFrame, signature: Signature, label: object, weight: str | None) -> dict[str, str]:
    """Return the raw column of each label of the model. Raises what `prepared_rows` raises before it reads rows."""
    columns = _label_columns(label, signature)
    taken = [*signature.input_names, *([weight] if weight else [])]
    require_columns(df, [*taken, *columns.values()])
    for name, raw in columns.items():
        if name in taken and raw != name:
            raise ConfigError(
                f"label={{{name!r}: {raw!r}}} must be {name!r}: the model takes the column {name!r} as a feature, or "
                "the rows' weight lies there; rename it"
            )
    return columns


def _label_columns(label: object, signature: Signature) -> dict[str, str]:
    """Return the raw column of each label of the model."""
    names = [encoder.name for encoder in signature.labels]
    if signature.target == "inputs":
        if label is not None:
            raise ConfigError(f"label={shown(label)} must be left out: the model was trained on its inputs")
        return {}
    if not names:
        raise ConfigError(
            "the model does not tell its label, so that nothing encodes one; save it with sparkdl.save_model(…, "
            "label=…)"
        )
    given: dict[Any, Any] = {}
    if isinstance(label, str) and len(names) == 1:
        given = {names[0]: label}
    elif isinstance(label, Mapping):
        given = dict(label)
    elif label is not None:
        raise ConfigError(
            f"label={shown(label)} must be a column for the label, or a dict of columns by label: {names}"
        )
    for name, raw in given.items():
        if name not in names:
            raise ConfigError(
                f"label names {shown(name)}, which is not a label of the model{near_miss(str(name), names)}"
            )
        if not isinstance(raw, str):
            raise ConfigError(f"label={{{name!r}: {shown(raw)}}} must name a column")
    return {name: given.get(name, name) for name in names}


def _named(df: DataFrame, signature: Signature, labels: Mapping[str, str], weight: str | None) -> DataFrame:
    """Select the columns that are read, each label under its own name."""
    taken = dict.fromkeys([*signature.input_names, *([weight] if weight else [])])
    renamed = [require_column(df, raw).alias(name) for name, raw in labels.items() if name not in taken]
    return df.select(*require_columns(df, list(taken)), *renamed)
