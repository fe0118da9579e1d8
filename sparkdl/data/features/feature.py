"""Define the interfaces of features and encoders, which prepare and scoring share.

A feature is declared on the driver; the encoder fitted from it runs in Spark workers and beside the model.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

__all__ = ["BytesEncoder", "Encoder", "Feature"]


@runtime_checkable
class Feature(Protocol):
    """Declare an input or a label: the column's name, and how the column is encoded."""

    @property
    def name(self) -> str:
        """The name of the column, and of the model's input."""

    @property
    def kind(self) -> str:
        """The encoder's kind in manifests and YAML: "numeric", "categorical", "text", "image", "tensor"."""


class Encoder(Protocol):
    """Encode a column by what a feature learnt from the train split; all code encodes by this interface."""

    @property
    def name(self) -> str:
        """The name of the column, and of the model's input."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the encoded values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one encoded row; () is a scalar."""

    @property
    def stored(self) -> Literal["values", "bytes"]:
        """The form in which a dataset stores a row: encoded values, or bytes that the feed gives to `encode`."""

    def encode(self, column: pa.Array) -> np.ndarray:
        """Encode raw values: `dtype`, shape ``(rows, *shape)``. Raises SchemaError that names column and row.

        The result depends on the values alone: slices, chunked, large, dictionary-encoded arrays and Python sequences
        give the same bits.
        """

    def to_json(self) -> dict[str, Any]:
        """Return all that `from_json` needs to make the same encoder again."""


class BytesEncoder(Encoder, Protocol):
    """Encode a column whose rows may be stored as bytes of any length."""

    def to_bytes(self, column: pa.Array) -> pa.Array:
        """Return the bytes stored for raw values: binary, null where a fill stands for a row. `encode` takes both."""
