"""What a feature and its encoder are, for prepare and for scoring alike.

A feature is declared on the driver; the encoder fitted from it runs in Spark workers and beside the model.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from sparkdl.errors import ConfigError, shown

__all__ = ["BytesEncoder", "Encoder", "Feature", "check_whole"]


@runtime_checkable
class Feature(Protocol):
    """A declared input or label: the column's name and how it is encoded."""

    @property
    def name(self) -> str:
        """The column, and the model's input."""

    @property
    def kind(self) -> str:
        """The encoder's kind in manifests and YAML: "numeric", "categorical", "text", "image", "tensor"."""


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

    @property
    def stored(self) -> Literal["values", "bytes"]:
        """What a dataset stores of a row: the encoded values, or bytes that `encode` makes values of in the feed."""

    def encode(self, column: pa.Array) -> np.ndarray:
        """Encode raw values: `dtype`, shape ``(rows, *shape)``. Raises SchemaError naming column and row.

        The result depends on the values alone: slices, chunked, large, dictionary-encoded arrays and Python sequences
        give the same bits.
        """

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs to make the same encoder again."""


class BytesEncoder(Encoder, Protocol):
    """An encoder whose rows may be stored as bytes of any length."""

    def to_bytes(self, column: pa.Array) -> pa.Array:
        """What is stored of raw values: binary, null where a fill stands for a row. `encode` takes it like them."""


def check_whole(declared: str, option: str, value: object, *, least: int) -> None:
    """Raise ConfigError if an option of a declared feature is not a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{declared}: {option}={shown(value)} must be a whole number of at least {least}")
