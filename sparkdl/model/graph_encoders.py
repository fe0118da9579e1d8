"""Encode raw values by TensorFlow operations that give what the encoders give.

Runs where a SavedModel is exported, and is traced into it. Each function gives what its encoder's `encode` gives; rows
that `encode` refuses raise InvalidArgumentError with the column's name.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from sparkdl.data.features import Encoder
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.image import ImageEncoder
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.features.text import BETWEEN_WORDS, UNKNOWN, TextEncoder
from sparkdl.errors import ModelError
from sparkdl.model.graph_unicode import normalized

__all__ = ["GraphEncoders", "raw_spec"]

# Added to the code point of a character between words: the sum is far below all code points.
BETWEEN = -(1 << 30)


@functools.cache
def word_characters() -> tuple[np.ndarray, np.ndarray]:
    """Return all Unicode characters as ranges: (the first code point of each, the number to add to its code points).

    The sum is the lower-cased code point of a character in words, and negative for one between words. int32, both of
    shape ``(ranges,)``; about 2,800 of them.
    """
    # Without surrogates, which no UTF-8 text holds.
    points = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x110000)]).astype(np.int32)
    lower = pc.utf8_lower(pa.array(map(chr, points.tolist()), pa.string()))
    # Each character has exactly one lower-case character; otherwise the lengths would differ below.
    lowered = np.frombuffer("".join(lower.to_pylist()).encode("utf-32-le"), np.int32)
    between = pc.match_substring_regex(lower, f"^{BETWEEN_WORDS}$").to_numpy(zero_copy_only=False)
    shifts = np.where(between, BETWEEN, lowered - points).astype(np.int32)
    begins = np.flatnonzero(np.concatenate([[True], shifts[1:] != shifts[:-1]]))
    return points[begins], shifts[begins]


def raw_spec(encoder: Encoder, *, name: str) -> tf.TensorSpec:
    """Return the spec of the tensor of a column's raw values, with the number of rows left open.

    Raises ModelError for an encoder that has no operations.
    """
    if isinstance(encoder, NumericEncoder):
        return tf.TensorSpec((None, *(() if encoder.indicator else encoder.shape)), tf.float64, name)
    if isinstance(encoder, CategoricalEncoder):
        if encoder.missing == "category":
            raise ModelError(
                f"column {encoder.name!r}: its missing values are a category, and a tensor holds no nulls; train with "
                "Categorical(fill=…) for a SavedModel"
            )
        return tf.TensorSpec((None,), tf.string if _is_text(encoder) else tf.int64, name)
    if isinstance(encoder, TextEncoder):
        if encoder.tokenizer is not None:
            raise ModelError(
                f"column {encoder.name!r}: its tokenizer {encoder.tokenizer} cannot be put into a SavedModel"
            )
        return tf.TensorSpec((None,), tf.string, name)
    if isinstance(encoder, TensorEncoder):
        return tf.TensorSpec((None, *encoder.column_shape), tf.as_dtype(encoder.dtype), name)
    if isinstance(encoder, ImageEncoder):
        return tf.TensorSpec((None, *encoder.shape), tf.uint8, name)
    raise ModelError(f"column {encoder.name!r}: its encoder {type(encoder).__name__} cannot be put into a SavedModel")


def _is_text(encoder: CategoricalEncoder) -> bool:
    return bool(encoder.vocabulary) and isinstance(encoder.vocabulary[0], str)


class GraphEncoders(tf.Module):  # type: ignore[misc]
    """Hold the encoders of a model's inputs, and the tables in which they look values up."""

    def __init__(self, encoders: tuple[Encoder, ...]) -> None:
        super().__init__()
        self.encoders = encoders
        self.tables = {
            encoder.name: _table(encoder)
            for encoder in encoders
            if isinstance(encoder, (CategoricalEncoder, TextEncoder))
        }

    def encode(self, raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encode raw values, as in `raw_spec`, to the model's inputs of shape ``(rows, *shape)``; both by column."""
        return {encoder.name: self._encode(encoder, raw[encoder.name]) for encoder in self.encoders}

    def _encode(self, encoder: Any, raw: tf.Tensor) -> tf.Tensor:
        if isinstance(encoder, NumericEncoder):
            return _numbers(encoder, raw)
        if isinstance(encoder, CategoricalEncoder):
            codes = self.tables[encoder.name].lookup(raw)
            if encoder.is_label:
                _check(
                    tf.reduce_all(codes >= 0),
                    f"column {encoder.name}: label is not among the classes kept from the train split",
                )
            return codes
        if isinstance(encoder, TextEncoder):
            return _word_ids(encoder, raw, self.tables[encoder.name])
        return tf.reshape(raw, (-1, *encoder.shape))


def _check(holds: tf.Tensor, problem: str) -> None:
    """Fail with `problem` unless `holds`; `problem` must not have quotes, which TensorFlow would escape."""
    tf.debugging.Assert(holds, [problem])


def _table(encoder: CategoricalEncoder | TextEncoder) -> Any:
    """Build the table of the code of each known value; its default is the code of unknown values."""
    if isinstance(encoder, TextEncoder):
        first, unknown, text = UNKNOWN + 1, UNKNOWN, True
    else:
        first, unknown, text = (0, -1, _is_text(encoder)) if encoder.is_label else (1, 0, _is_text(encoder))
    keys = tf.constant(encoder.vocabulary, tf.string if text else tf.int64, (len(encoder.vocabulary),))
    codes = tf.range(first, first + len(encoder.vocabulary), dtype=tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, codes), unknown)


def _numbers(encoder: NumericEncoder, raw: tf.Tensor) -> tf.Tensor:
    """Fill, scale and check raw numbers; NaN is a missing value."""
    column = f"column {encoder.name}"
    missing = tf.math.is_nan(raw)
    _check(tf.logical_not(tf.reduce_any(tf.math.is_inf(raw))), f"{column}: infinite value")
    if encoder.fill is None:
        _check(tf.logical_not(tf.reduce_any(missing)), f"{column}: NaN without a policy (Numeric(fill=…))")
        values = raw
    else:
        values = tf.where(missing, tf.constant(encoder.fill, tf.float64), raw)
    if encoder.scale != "none":
        offset = np.asarray(encoder.mean if encoder.scale == "standardize" else encoder.low)
        width = np.asarray(encoder.std) if encoder.scale == "standardize" else np.asarray(encoder.high) - offset
        values = (values - offset) / np.where(width > 0, width, 1.0)
    narrow = tf.cast(values, tf.float32)
    _check(tf.reduce_all(tf.math.is_finite(narrow)), f"{column}: value beyond the range of float32")
    return tf.stack([narrow, tf.cast(missing, tf.float32)], axis=1) if encoder.indicator else narrow


def _word_ids(encoder: TextEncoder, raw: tf.Tensor, table: Any) -> tf.Tensor:
    """Return the ids of the first `length` words, padded; int32, shape ``(rows, length)``."""
    points = tf.strings.unicode_decode(raw, "UTF-8", errors="strict")
    if encoder.normalize is not None:
        points = normalized(points, encoder.normalize, column=encoder.name)
    rows = points.value_rowids()
    begins, shifts = (tf.constant(part) for part in word_characters())
    # flat: all characters of all rows, lower-cased; those between words are negative.
    flat = points.flat_values
    flat += tf.gather(shifts, tf.searchsorted(begins, flat, side="right") - 1)
    in_word = flat >= 0
    # A word begins where a row's text begins, and behind a character between words.
    apart = tf.logical_or(rows[1:] != rows[:-1], tf.logical_not(in_word[:-1]))
    first = tf.logical_and(in_word, tf.concat([tf.ones_like(in_word[:1]), apart], axis=0))
    word = tf.cumsum(tf.cast(first, tf.int64)) - 1
    row_of_word = tf.boolean_mask(rows, first)
    characters = tf.RaggedTensor.from_value_rowids(
        tf.boolean_mask(flat, in_word),
        tf.boolean_mask(word, in_word),
        nrows=tf.size(row_of_word, out_type=tf.int64),
        validate=False,
    )
    ids = table.lookup(tf.strings.unicode_encode(characters, "UTF-8"))
    by_row = tf.RaggedTensor.from_value_rowids(ids, row_of_word, nrows=points.nrows(), validate=False)
    return by_row.to_tensor(shape=(None, encoder.length))
