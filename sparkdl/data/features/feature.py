"""What a feature and its encoder are, for prepare and for scoring alike.

A feature is declared on the driver; the encoder fitted from it runs in Spark workers and beside the model.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

__all__ = ["Encoder", "Feature"]


@runtime_checkable
class Feature(Protocol):
    """A declared input or label: the column's name and how it is encoded."""

    @property
    def name(self) -> str:
        """The column, and the model's input."""

    @property
    def kind(self) -> str:
        """The encoder's kind in manifests and YAML: "numeric", "categorical", "tensor"."""


class Encoder(Protocol):
    """A fitted feature: what it learnt from the train split, and the one way to encode a column."""

    @property
    def name(self) -> str:
        """The column, and the model's input."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the encoded values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one encoded row; () is a scalar."""

    def encode(self, column: pa.Array) -> np.ndarray:
        """Encode raw values: `dtype`, shape ``(rows, *shape)``. Raises SchemaError naming column and row."""

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs to make the same encoder again."""
