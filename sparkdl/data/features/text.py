"""Encode text as the ids of its words, by a vocabulary of the train split.

Declared on the driver; `words` counts and encodes, in Spark workers and beside the model.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkdl.checks import named_options, require, require_whole
from sparkdl.data.features.bad_values import check_no_nulls, check_utf8
from sparkdl.data.features.categorical import most_frequent
from sparkdl.data.features.columns import as_array
from sparkdl.data.features.feature import Stored, StoredEncoder, added
from sparkdl.data.features.tokenizer import tokens
from sparkdl.errors import SchemaError, shown

__all__ = ["BETWEEN_WORDS", "UNKNOWN", "Text", "TextEncoder", "check_text", "to_form", "words"]

PAD, UNKNOWN = 0, 1
FORMS = ("NFC", "NFKC")
# Words are parted by all characters but Unicode letters, marks (combining accents), numbers and underscores.
BETWEEN_WORDS = r"[^\p{L}\p{M}\p{N}_]+"


@named_options
@dataclass(frozen=True, slots=True)
class Text:
    """Declare text, encoded as int32 ids of shape (length,): 0 pads, 1 is out of vocabulary, 2 is the commonest word.

    A text is brought to one form of Unicode, lower-cased, character by character, and split into words: the longest
    runs of Unicode letters, marks, numbers and underscores. "Don't stop, 2 €!" has the words don, t, stop and 2. The
    first `length` words count; a shorter text is padded at its end. Raises ConfigError for a value out of range.
    """

    kind: ClassVar[str] = "text"

    name: str
    _: KW_ONLY

    length: int
    """The number of words of a row."""

    max_size: int = 20_000
    """Keep at most this many words, the most frequent; ties go to the smaller word."""

    min_count: int = 1
    """Keep words that the train split has at least this often."""

    fill: str | None = None
    """The text that stands for null; "" gives a row of padding. None: null is an error."""

    normalize: str | None = added("NFKC", before=None)
    """The form of Unicode: "NFKC" makes one of é and e with an accent, and of full-width, ligature and plain letters;
    "NFC" of the first two alone; None changes nothing (as version 0.1 did)."""

    tokenizer: str | None = added(None)
    """A function "module:function" that gets a text, normalized but not lower-cased, and returns its words as a list of
    strings: for languages that write without spaces, such as "jieba:lcut", and for parts of words. The module must be
    importable wherever rows are prepared and scored, and scoring takes `safe_mode=False`. None: words as above."""

    def __post_init__(self) -> None:
        for option in ("length", "max_size", "min_count"):
            require_whole(f"Text({self.name!r}): {option}", getattr(self, option))
        where = f"Text({self.name!r})"
        require(
            self.fill is None or isinstance(self.fill, str), f"{where}: fill={shown(self.fill)} must be a text or None"
        )
        good = self.normalize is None or self.normalize in FORMS
        require(good, f"{where}: normalize={shown(self.normalize)} must be one of {', '.join(FORMS)}, or None")
        if self.tokenizer is not None:
            good = isinstance(self.tokenizer, str) and len(self.tokenizer.split(":")) == 2
            require(good, f"{where}: tokenizer={shown(self.tokenizer)} must have the form module:function")


def check_text(column: pa.Array, *, name: str) -> None:
    """Raise SchemaError for a column that is not text."""
    type_, types = column.type, pa.types
    if not (types.is_string(type_) or types.is_large_string(type_) or types.is_null(type_)):
        raise SchemaError(f"column {name!r}: values of type {type_!s:.80} are not text; cast them to strings")


def to_form(texts: pa.Array, form: str) -> pa.Array:
    """Return texts in a form of Unicode, "NFC" or "NFKC"; nulls stay."""
    if _composes():
        return pc.utf8_normalize(texts, form)
    normalize: Any = unicodedata.normalize
    return pa.array([None if text is None else normalize(form, text) for text in texts.to_pylist()], texts.type)


@functools.cache
def _composes() -> bool:
    """Tell whether Arrow composes characters in these forms; pyarrow 14 decomposes them, as in NFD and NFKD."""
    return bool(pc.utf8_normalize(pa.array(["e\u0301"]), "NFC")[0].as_py() == "\u00e9")


def words(
    column: pa.Array, *, name: str, fill: str | None, normalize: str | None = None, tokenizer: str | None = None
) -> tuple[pa.Array, np.ndarray]:
    """Return the words of all rows in turn, and the number of words of each row: int64, shape ``(rows,)``.

    Args:
        fill, normalize, tokenizer: as in `Text`. Without a tokenizer words are lower-cased.

    Raises SchemaError for a column that is not text or not UTF-8, for nulls where `fill` is None, and for a text that
    the tokenizer fails at.
    """
    check_text(column, name=name)
    if fill is None:
        check_no_nulls(name, column, "Text(fill=…), or drop such rows")
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    check_utf8(name, column)
    texts = column.fill_null(fill) if column.null_count else column
    if normalize is not None:
        texts = to_form(texts, normalize)
    if tokenizer is not None:
        return tokens(texts, name=name, tokenizer=tokenizer)
    split = pc.split_pattern_regex(pc.utf8_lower(texts), BETWEEN_WORDS)
    pieces = split.flatten()
    lengths = pc.list_value_length(split).to_numpy().astype(np.int64)
    # A text that begins or ends with a separator has an empty piece there.
    empty = pc.equal(pc.binary_length(pieces), 0).to_numpy(zero_copy_only=False)
    if not empty.any():
        return pieces, lengths
    row_of_empty = np.repeat(np.arange(len(column)), lengths)[empty]
    return pieces.filter(pa.array(~empty)), lengths - np.bincount(row_of_empty, minlength=len(column))


@dataclass(frozen=True)
class TextEncoder(StoredEncoder):
    """Encode text by the vocabulary of a fitted `Text`.

    Attributes:
        vocabulary: the known words in the order of their ids; the first id is 2.
        fill, normalize, tokenizer: as in `Text`; encoders of version 0.1 do not normalize.
    """

    kind: ClassVar[str] = "text"
    dtype: ClassVar[np.dtype] = np.dtype(np.int32)
    stored: ClassVar[Stored] = "values"

    name: str
    vocabulary: tuple[str, ...]
    length: int
    fill: str | None
    normalize: str | None = added(None)
    tokenizer: str | None = added(None)

    @classmethod
    def fit(cls, feature: Text, counted: Sequence[tuple[str, int]]) -> TextEncoder:
        """Fit an encoder to (word, count) pairs of the train split. Raises SchemaError if all words are too rare."""
        kept = most_frequent(feature.name, counted, max_size=feature.max_size, min_count=feature.min_count)
        return cls(feature.name, tuple(kept), feature.length, feature.fill, feature.normalize, feature.tokenizer)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def size(self) -> int:
        """The number of ids: the `input_dim` of an embedding."""
        return len(self.vocabulary) + 2

    @functools.cached_property
    def _known(self) -> pa.Array:
        return pa.array(self.vocabulary, type=pa.string())

    def encode(self, column: pa.Array) -> np.ndarray:
        flat, counts = words(
            as_array(column),
            name=self.name,
            fill=self.fill,
            normalize=self.normalize,
            tokenizer=self.tokenizer,
        )
        ids = np.full((len(counts), self.length), PAD, dtype=np.int32)
        if (counts > self.length).any():
            position = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
            flat = flat.filter(pa.array(position < self.length))
        codes = pc.index_in(flat, value_set=self._known.cast(flat.type))
        # Row by row, the first elements of `ids` take the row's words in turn.
        ids[np.arange(self.length) < counts[:, None]] = codes.fill_null(UNKNOWN - 2).to_numpy() + np.int32(2)
        return ids
