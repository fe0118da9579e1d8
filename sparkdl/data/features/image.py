"""Encode images as arrays of bytes.

Declared on the driver; decoded in Spark workers by prepare, in the feed where the encoded bytes are stored, and beside
the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from sparkdl.checks import named_options, require_whole
from sparkdl.data.features.bad_values import bad_rows, check_no_nulls
from sparkdl.data.features.columns import as_array
from sparkdl.data.features.feature import Stored, StoredEncoder
from sparkdl.data.features.pixels import IMAGE_FIELDS, Undecodable, as_png, check_image, decode
from sparkdl.errors import ConfigError, SchemaError, shown

__all__ = ["Image", "ImageEncoder"]

STORES = ("pixels", "encoded")


@named_options
@dataclass(frozen=True, slots=True)
class Image:
    """Declare images that become uint8 of shape (height, width, channels), grey or red, green, blue.

    The column holds encoded bytes (PNG, JPEG, GIF, BMP, TIFF, WebP, PPM), such as `content` of Spark's `binaryFile`
    source, or the struct of Spark's `image` source. An image of another size is resized (Pillow's bilinear filter), one
    of the right size is not touched. Transparency is dropped. Channels of 9 to 16 bits keep their upper 8; an image of
    more bits counts as undecodable. Of an animation, the first frame counts. The orientation that cameras write into
    EXIF is not applied, as in TensorFlow, Keras and Spark: turn such images before. Raises ConfigError for a wrong
    size, `store` or `fill`.
    """

    kind: ClassVar[str] = "image"

    name: str
    _: KW_ONLY

    height: int
    """Pixels of the result from top to bottom."""

    width: int
    """Pixels from left to right."""

    channels: int = 3
    """3: red, green, blue. 1: grey (ITU-R 601 luma)."""

    store: str = "pixels"
    """The form in which the dataset holds images: "pixels" are read fastest; "encoded" keeps each image's own bytes, a
    tenth of the space for photographs, which the feed decodes in every epoch."""

    fill: int | None = None
    """0 to 255: the value of all pixels of an image that is null or cannot be decoded. None: such a row is an error."""

    def __post_init__(self) -> None:
        declared = f"Image({self.name!r})"
        require_whole(f"{declared}: height", self.height)
        require_whole(f"{declared}: width", self.width)
        if self.channels not in (1, 3):
            raise ConfigError(f"{declared}: channels={shown(self.channels)} must be 3 (colours) or 1 (grey)")
        if self.store not in STORES:
            raise ConfigError(f"{declared}: store={shown(self.store)} must be one of {', '.join(STORES)}")
        if self.fill is not None:
            require_whole(f"{declared}: fill", self.fill, least=0)
            if self.fill > 255:
                raise ConfigError(f"{declared}: fill={self.fill} must be at most 255")


@dataclass(frozen=True, slots=True)
class ImageEncoder(StoredEncoder):
    """Encode images as an `Image` declares, without learning from data.

    All methods may be called from several threads at once.
    """

    kind: ClassVar[str] = "image"
    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)

    name: str
    shape: tuple[int, ...]
    store: str
    fill: int | None

    @classmethod
    def fit(cls, feature: Image, type_: pa.DataType) -> ImageEncoder:
        """Make the encoder for a column of this type. Raises SchemaError for a type that does not hold images."""
        _check_images(type_, feature.name)
        return cls(feature.name, (feature.height, feature.width, feature.channels), feature.store, feature.fill)

    @property
    def stored(self) -> Stored:
        return "bytes" if self.store == "encoded" else "values"

    def encode(self, column: pa.Array) -> np.ndarray:
        column = as_array(column)
        height, width, channels = self.shape
        pixels = np.empty((len(column), *self.shape), np.uint8)

        def decode_row(row: int, image: Any) -> None:
            pixels[row] = decode(image, height=height, width=width, channels=channels)

        missing = self._each(column, decode_row)
        if self.fill is not None:  # else nothing is missing
            pixels[missing] = self.fill
        return pixels

    def to_bytes(self, column: pa.Array) -> pa.Array:
        """Return the bytes stored with `store="encoded"`: binary, null for an image that `fill` stands for.

        Encoded bytes stay as they are, a Spark image struct becomes PNG; `encode` gives the same pixels for the result
        as for `column`. Raises SchemaError as `encode` does.
        """
        column = as_array(column)
        if pa.types.is_struct(column.type):
            encoded: list[bytes | None] = [None] * len(column)

            def encode_row(row: int, image: Any) -> None:
                check_image(image, channels=self.shape[2])
                encoded[row] = as_png(image)

            self._each(column, encode_row)
            return pa.array(encoded, pa.binary())
        missing = self._each(column, lambda row, image: check_image(image, channels=self.shape[2]))
        contents = column.cast(pa.binary())
        if not missing.any():
            return contents
        # Not pc.if_else: with a null scalar it gives zeros for the bytes that stay (pyarrow 14).
        return contents.take(pa.array(np.arange(len(column)), mask=missing))

    def _each(self, column: pa.Array, action: Callable[[int, Any], None]) -> np.ndarray:
        """Call `action(row, image)` for each image; return where `fill` stands for one: bool, shape ``(rows,)``."""
        _check_images(column.type, self.name)
        if self.fill is None:
            check_no_nulls(self.name, column, "Image(fill=…), or drop such rows")
        undecodable: dict[int, str] = {}
        # Row by row: all rows as Python objects at once would be a second copy of the batch.
        for row, scalar in enumerate(column):
            if scalar.is_valid:
                try:
                    action(row, scalar.as_py())
                except Undecodable as error:
                    undecodable[row] = f"image cannot be decoded ({error}; Image(fill=…) puts a uniform image there)"
        if self.fill is None and undecodable:
            raise bad_rows(self.name, column, undecodable)
        missing: np.ndarray = column.is_null().to_numpy(zero_copy_only=False).copy()
        missing[list(undecodable)] = True
        return missing


def _check_images(type_: pa.DataType, name: str) -> None:
    """Raise SchemaError for a column that holds neither encoded images nor Spark's image structs."""
    types = pa.types
    if any(holds(type_) for holds in (types.is_binary, types.is_large_binary, types.is_null)):
        return
    if types.is_struct(type_) and {field.name for field in type_} >= IMAGE_FIELDS:
        return
    way_out = "take its pixels as Tensor" if types.is_list(type_) else "give the encoded bytes or Spark's image struct"
    if types.is_struct(type_):
        way_out = "select its encoded bytes as a column (df.select('image.content'))"
    raise SchemaError(f"column {name!r}: values of type {type_!s:.80} are not images; {way_out}")
