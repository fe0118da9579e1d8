"""Define the interfaces of features and encoders, which prepare and scoring share.

A feature is declared on the driver; the encoder fitted from it runs in Spark workers and beside the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import pyarrow as pa

from sparkdl.errors import ConfigError

__all__ = [
    "BytesEncoder",
    "Encoder",
    "Feature",
    "Stored",
    "StoredEncoder",
    "added",
    "check_several",
    "fills",
    "raw_columns",
    "stated_fields",
]

Stored = Literal["values", "bytes"]
"""The form in which a dataset stores a row: encoded values, or bytes that the feed gives to `encode`."""


@runtime_checkable
class Feature(Protocol):
    """Declare an input or a label: the column's name, and how the column is encoded."""

    @property
    def name(self) -> str:
        """The name of the column, and of the model's input; of several columns, that of the input alone."""

    @property
    def kind(self) -> str:
        """The encoder's kind in manifests and YAML: "numeric", "categorical", "text", "image", "tensor"."""


class Encoder(Protocol):
    """Encode a column by what a feature learnt from the train split; all code encodes by this interface."""

    @property
    def name(self) -> str:
        """The name of the column, and of the model's input; of several columns, that of the input alone."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the encoded values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one encoded row; () is a scalar."""

    @property
    def stored(self) -> Stored:
        """The form in which a dataset stores a row."""

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


_Fitted = TypeVar("_Fitted", bound="StoredEncoder")


_BEFORE = "before"


def added(default: Any, *, before: Any = ...) -> Any:
    """Declare a field of a feature or an encoder that version 0.1 did not have.

    Args:
        before: the value that stands for what version 0.1 did; by default `default`. `stated_fields` leaves it out, so
            that fingerprints and signatures of version 0.1 stay.
    """
    return dataclasses.field(default=default, metadata={_BEFORE: default if before is ... else before})


def stated_fields(value: Any) -> dict[str, Any]:
    """Return the fields of a feature or an encoder by name, without `added` fields that are as in version 0.1."""
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if _BEFORE not in field.metadata or getattr(value, field.name) != field.metadata[_BEFORE]
    }


def fills(feature: Feature) -> bool:
    """Tell whether a feature takes null, by a fill or as a category."""
    return getattr(feature, "fill", None) is not None or getattr(feature, "missing", "error") != "error"


def raw_columns(feature: Feature | Encoder) -> tuple[str, ...]:
    """Return the raw columns that a feature or an encoder reads: that of its name, or the several it is made of."""
    return getattr(feature, "columns", ()) or (feature.name,)


def check_several(features: Sequence[Feature | Encoder], others: Iterable[str] = ()) -> None:
    """Raise ConfigError for an input of several columns that bears the name of a column, or of another such input.

    Args:
        others: columns that are read beside the features.
    """
    raw = [name.lower() for name in (*others, *(name for feature in features for name in raw_columns(feature)))]
    several = [feature.name for feature in features if getattr(feature, "columns", ())]
    for name in several:
        taken = [*raw, *(other.lower() for other in several if other != name)]
        if name.lower() in taken:
            raise ConfigError(f"name={name!r} is a column, or another input, that is read, too; choose another name")


class StoredEncoder:
    """Write an encoder, a dataclass, as its kind and its fields to manifests and signatures, and read it again."""

    __slots__ = ()
    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind} | {name: _plain(value) for name, value in stated_fields(self).items()}

    @classmethod
    def from_json(cls: type[_Fitted], content: dict[str, Any]) -> _Fitted:
        """Make the encoder that `to_json` described."""
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items() if name != "kind"}
        return cls(**fields | ({"dtype": np.dtype(fields["dtype"])} if "dtype" in fields else {}))


def _plain(value: Any) -> Any:
    if isinstance(value, np.dtype):
        return value.name
    return list(value) if isinstance(value, tuple) else value
