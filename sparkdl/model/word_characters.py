"""Which characters are parts of words, and what they are in lower case: the rules of `Text` as a table.

Runs where a SavedModel is exported. Lower case and classes of characters differ between versions of Unicode, and so
between Arrow and TensorFlow (TensorFlow makes two characters of İ, another s of a final Σ, and leaves Ⱟ as it is): the
graph takes them from this table, which is Arrow's.
"""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkdl.data.features.text import BETWEEN_WORDS

__all__ = ["BETWEEN", "word_characters"]

# What a character between words is shifted by: far below all code points.
BETWEEN = -(1 << 30)


@functools.cache
def word_characters() -> tuple[np.ndarray, np.ndarray]:
    """All Unicode characters as ranges: (the first code point of each, what to add to those in it).

    The sum is the lower-cased code point of a character in words, and negative for one between words. int32, both of
    shape ``(ranges,)``; about 2,800 of them.
    """
    # Surrogates are no characters: no UTF-8 text holds them.
    points = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x110000)]).astype(np.int32)
    lower = pc.utf8_lower(pa.array(map(chr, points.tolist()), pa.string()))
    # Every character has one in lower case, or this has another length.
    lowered = np.frombuffer("".join(lower.to_pylist()).encode("utf-32-le"), np.int32)
    between = pc.match_substring_regex(lower, f"^{BETWEEN_WORDS}$").to_numpy(zero_copy_only=False)
    shifts = np.where(between, BETWEEN, lowered - points).astype(np.int32)
    begins = np.flatnonzero(np.concatenate([[True], shifts[1:] != shifts[:-1]]))
    return points[begins], shifts[begins]
