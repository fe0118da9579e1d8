"""Take a model's inputs from the rows of a prepared dataset, which holds them encoded.

Made on the driver; used in Spark workers, in the thread that prefetches for the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sparkdl.data.dataset import Dataset
from sparkdl.data.features import Encoder
from sparkdl.data.layout import RECORD_COLUMN, RecordLayout
from sparkdl.errors import SchemaError, near_miss
from sparkdl.model.signature import Signature
from sparkdl.score.worker.encode import encode_columns

__all__ = ["PreparedRows"]


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Make a model's inputs, one by each encoder, from a dataset's columns. Picklable."""

    layout: RecordLayout
    encoders: tuple[Encoder, ...]

    @classmethod
    def of(cls, dataset: Dataset, signature: Signature) -> PreparedRows:
        """Match a dataset to a model's inputs; where a dataset keeps an image's bytes does not matter.

        Raises SchemaError if the dataset lacks an input, or encodes it in another way than the model's training.
        """
        for encoder in signature.inputs:
            found = dataset.features.get(encoder.name)
            if found is None:
                raise SchemaError(
                    f"the model's input {encoder.name!r} is not a feature of the dataset at {dataset.path}"
                    f"{near_miss(encoder.name, dataset.features)}"
                )
            if {**found.to_json(), "store": None} != {**encoder.to_json(), "store": None}:
                raise SchemaError(
                    f"the dataset at {dataset.path} encodes {encoder.name!r} in another way than the model's training "
                    "data was; score the raw rows"
                )
        return cls(dataset.layout, tuple(dataset.features[encoder.name] for encoder in signature.inputs))

    @property
    def columns(self) -> tuple[str, ...]:
        """The Parquet columns that `encode` takes: the records, then the inputs that are stored as bytes."""
        return (RECORD_COLUMN, *(f"feature:{e.name}" for e in self.encoders if e.stored == "bytes"))

    def encode(
        self, columns: Sequence[pa.Array], *, row_name: Callable[[int], str], keep_bad: bool
    ) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Return the inputs of rows of `columns`, and the bad rows with their reasons, as `encode_columns` does."""
        records = self.layout.from_arrow(columns[0])
        stored = [encoder for encoder in self.encoders if encoder.stored == "bytes"]
        by_name = {encoder.name: column for encoder, column in zip(stored, columns[1:], strict=True)}
        decoded, problems = encode_columns(stored, by_name, row_name=row_name, keep_bad=keep_bad)
        values = {e.name: records[f"feature:{e.name}"] for e in self.encoders if e.stored == "values"}
        return {e.name: decoded[e.name] if e.name in decoded else values[e.name] for e in self.encoders}, problems
