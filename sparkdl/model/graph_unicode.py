"""Bring text to a form of Unicode by TensorFlow operations, and refuse the text for which these do not suffice.

Runs where a SavedModel is exported, and is traced into it. TensorFlow itself normalizes no text. Characters that the
form replaces, each for itself (½, a no-break space, full-width letters), are replaced here. Characters that the form
joins with, or moves before, their neighbours (e and a combining accent) raise InvalidArgumentError: the caller
normalizes such text. Source of the forms: Unicode Standard Annex 15.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from sparkdl.data.features.text import to_form

__all__ = ["normalized"]

# Half the size of the keys of pairs: all code points are below.
_POINTS = 1 << 21
_LEADS, _VOWELS, _TRAILS = range(0x1100, 0x1113), range(0x1161, 0x1176), range(0x11A8, 0x11C3)
_SYLLABLES = range(0xAC00, 0xD7A4, 28)


class _Tables(NamedTuple):
    """Hold what a form does, as arrays that `searchsorted` finds code points in; all int32, but `pairs`.

    Attributes:
        replaced: the code points that the form replaces, ascending, shape ``(replaced,)``.
        values, lengths: the code points that replace them, in turn, and the number for each.
        marks, classes: the combining characters, ascending, and their combining classes.
        joining: the characters that may be joined with one before, ascending.
        pairs: the pairs that are joined: first · 2^21 + second, int64, ascending.
    """

    replaced: np.ndarray
    values: np.ndarray
    lengths: np.ndarray
    marks: np.ndarray
    classes: np.ndarray
    joining: np.ndarray
    pairs: np.ndarray


@functools.cache
def _tables(form: str) -> _Tables:
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    alone = pa.array(map(chr, points), pa.string())
    formed = to_form(alone, form)
    changed = pc.not_equal(alone, formed).to_numpy(zero_copy_only=False)
    texts = formed.filter(pa.array(changed)).to_pylist()
    split = [unicodedata.decomposition(chr(point)) for point in points]
    # A decomposition with a tag, such as <wide>, is not canonical: nothing is joined to it.
    two = [parts for parts in map(str.split, split) if len(parts) == 2 and not parts[0].startswith("<")]
    pairs = [(int(first, 16), int(second, 16)) for first, second in two]
    pairs += [(lead, vowel) for lead in _LEADS for vowel in _VOWELS]
    pairs += [(syllable, trail) for syllable in _SYLLABLES for trail in _TRAILS]
    apart = pa.array([chr(first) + chr(second) for first, second in pairs])
    joined = pc.not_equal(to_form(apart, form), apart).to_pylist()
    kept = [pair for pair, is_joined in zip(pairs, joined, strict=True) if is_joined]
    marks = [point for point in points if unicodedata.combining(chr(point))]
    return _Tables(
        replaced=np.array(points, np.int32)[changed],
        values=np.frombuffer("".join(texts).encode("utf-32-le"), np.int32),
        lengths=np.array([len(text) for text in texts], np.int32),
        marks=np.array(marks, np.int32),
        classes=np.array([unicodedata.combining(chr(point)) for point in marks], np.int32),
        joining=np.unique(np.array([second for _, second in kept], np.int32)),
        pairs=np.unique(np.array([first * _POINTS + second for first, second in kept], np.int64)),
    )


def normalized(points: tf.RaggedTensor, form: str, *, column: str) -> tf.RaggedTensor:
    """Bring code points, int32 of shape ``(rows, any)``, to the form "NFC" or "NFKC"; fail where neighbours change."""
    tables = _tables(form)
    flat = points.flat_values
    at, is_replaced = _found(flat, tables.replaced)
    # One table of replacements: those of the form, and behind them, by one each, the characters as they are.
    lengths = tf.where(is_replaced, tf.gather(tf.constant(tables.lengths), at), 1)
    starts = tf.gather(tf.constant(np.cumsum(tables.lengths, dtype=np.int32) - tables.lengths), at)
    starts = tf.where(is_replaced, starts, len(tables.values) + tf.range(tf.size(flat)))
    source = tf.repeat(starts - tf.cumsum(lengths, exclusive=True), lengths) + tf.range(tf.reduce_sum(lengths))
    flat = tf.gather(tf.concat([tf.constant(tables.values), flat], axis=0), source)
    rows = tf.repeat(points.value_rowids(), lengths)
    character = tf.repeat(tf.range(tf.size(lengths)), lengths)
    at, is_mark = _found(flat, tables.marks)
    classes = tf.where(is_mark, tf.gather(tf.constant(tables.classes), at), 0)
    # What the form makes of one character stays as it is.
    neighbours = tf.logical_and(tf.equal(rows[1:], rows[:-1]), tf.not_equal(character[1:], character[:-1]))
    moves = tf.logical_and(classes[1:] > 0, classes[:-1] > classes[1:])
    # A mark behind a mark may be joined with the letter before both.
    behind_mark = tf.logical_and(classes[:-1] > 0, _found(flat[1:], tables.joining)[1])
    keys = tf.cast(flat[:-1], tf.int64) * _POINTS + tf.cast(flat[1:], tf.int64)
    changes = tf.logical_or(tf.logical_or(moves, behind_mark), _found(keys, tables.pairs)[1])
    unchanged = tf.logical_not(tf.reduce_any(tf.logical_and(neighbours, changes)))
    tf.debugging.Assert(unchanged, [f"column {column}: text is not in the form {form}; normalize it before"])
    return tf.RaggedTensor.from_value_rowids(flat, rows, nrows=points.nrows(), validate=False)


def _found(values: tf.Tensor, table: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the index of each value in an ascending table, and whether it is there; both of the values' shape."""
    ascending = tf.constant(table)
    at = tf.minimum(tf.searchsorted(ascending, values), len(table) - 1)
    return at, tf.equal(tf.gather(ascending, at), values)
