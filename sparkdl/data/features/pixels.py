"""Decode one image to pixels, from encoded bytes or a row of Spark's image columns.

Runs in Spark workers, beside the model and, for datasets that store encoded images, in the feed's threads; Pillow is
imported when the first image comes.
"""

from __future__ import annotations

import functools
import importlib
import io
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGE_FIELDS", "Undecodable", "as_png", "check_image", "decode"]

# Spark's image struct (pyspark.ml.image.ImageSchema): rows from the top, channels in OpenCV's order, blue first.
IMAGE_FIELDS = {"origin", "height", "width", "nChannels", "mode", "data"}
_CHANNELS_OF_MODE = {0: 1, 16: 3, 24: 4}  # CV_8UC1, CV_8UC3, CV_8UC4

# Only formats of pictures that Pillow decodes by itself: its EPS reader, for one, starts another program.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

# All that Pillow's decoders raise on damaged bytes, but for DecompressionBombError, which is its limit of pixels.
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


# The tag of TIFF that holds the bits of a channel.
_BITS_PER_SAMPLE = 258


class Undecodable(Exception):
    """Say why an image cannot be decoded to pixels."""


def check_image(row: bytes | Mapping[str, Any], *, channels: int) -> None:
    """Raise Undecodable if `decode` would."""
    _converted(row, channels=channels)


def decode(row: bytes | Mapping[str, Any], *, height: int, width: int, channels: int) -> np.ndarray:
    """Decode one image to pixels: uint8, shape ``(height, width, channels)``, grey or red, green, blue.

    Args:
        row: an encoded image (PNG, JPEG, GIF, BMP, TIFF, WebP, PPM), or Spark's image struct.
        height, width: of the result; an image of another size is resized with Pillow's bilinear filter.
        channels: 1 for grey (ITU-R 601 luma), 3 for colours.

    Raises:
        Undecodable: with the reason.
    """
    from PIL.Image import Resampling

    image = _converted(row, channels=channels)
    if image.size != (width, height):
        image = image.resize((width, height), Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels)


def as_png(row: Mapping[str, Any]) -> bytes:
    """Encode Spark's image struct as PNG, which decodes to the same pixels. Raises Undecodable."""
    encoded = io.BytesIO()
    _from_struct(row).save(encoded, "PNG")
    return encoded.getvalue()


def _converted(row: bytes | Mapping[str, Any], *, channels: int) -> Image:
    """Return the image in its own size, in mode L or RGB. Raises Undecodable."""
    from PIL.Image import DecompressionBombError

    try:
        image = _opened(row) if isinstance(row, bytes) else _from_struct(row)
        return _plain_mode(image, "L" if channels == 1 else "RGB")
    except (*_DAMAGED, DecompressionBombError) as error:
        # One line, as every message of sparkdl is.
        raise Undecodable(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


@functools.cache
def _pillow() -> Any:
    """Import Pillow's module Image and the formats' modules, which register themselves at import.

    If Pillow imported the formats, threads that open their first image together might see half of the formats.
    """
    from PIL import Image

    for format_ in ("Bmp", "Gif", "Jpeg", "Png", "Ppm", "Tiff", "WebP"):
        importlib.import_module(f"PIL.{format_}ImagePlugin")
    return Image


def _opened(content: bytes) -> Image:
    """Open the first frame of an encoded image and read all its pixels."""
    pillow = _pillow()
    try:
        image: Image = pillow.open(io.BytesIO(content), formats=_FORMATS)
    except pillow.UnidentifiedImageError as error:
        # Pillow's text holds the address of an object.
        raise Undecodable(f"no image in one of the formats {', '.join(_FORMATS)}") from error
    # Between its limit and twice its limit, Pillow only warns.
    limit = pillow.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Undecodable(f"{image.width} × {image.height} pixels are more than Pillow's limit of {limit}")
    image.load()
    return image


def _plain_mode(image: Image, mode: str) -> Image:
    """Convert the image to mode L or RGB: drop transparency; of 16 bits keep the upper 8, as PNG readers do.

    Raises Undecodable where nothing defines which number is white.
    """
    from PIL import Image

    if image.mode == mode:
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        # TIFF has grey pixels of any number of bits; other formats are stretched to 16.
        bits = int(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))[0]) if image.format == "TIFF" else 16  # type: ignore[attr-defined]
        if not 8 < bits <= 16:
            raise Undecodable(f"pixels of {bits} bits have no known range")
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 0xFFFF:
            raise Undecodable("pixels beyond 16 bits have no known range")
        image = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    if image.mode == "F":
        raise Undecodable("pixels that are fractions have no known range")
    # With this entry, Pillow would warn of transparent palettes and pick a colour for transparent pixels.
    image.info.pop("transparency", None)
    return image.convert(mode)


def _from_struct(row: Mapping[str, Any]) -> Image:
    from PIL import Image

    channels = _CHANNELS_OF_MODE.get(row["mode"])
    if channels is None:
        raise Undecodable(f"mode {row['mode']} of Spark's image struct must be one of {list(_CHANNELS_OF_MODE)}")
    height, width, data = row["height"], row["width"], row["data"]
    if not (height and width and data) or height < 1 or len(data) != height * width * channels:
        raise Undecodable(f"{len(data or b'')} bytes are not a {height} × {width} × {channels} image")
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, channels)
    if channels == 1:
        return Image.fromarray(pixels[:, :, 0])
    # Blue, green, red (, alpha) -> red, green, blue (, alpha).
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3][:channels]]))
