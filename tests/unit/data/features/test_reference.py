"""Every encoder against a reference in plain Python, on made-up raw rows in every form that a column may come in."""

import calendar
import datetime as dt
import decimal
import io
import json
import math
import struct
import unicodedata
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from draws import drawn
from sparkdl import SchemaError
from sparkdl.data.features import encoder_from_json
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.categories import CategoriesEncoder
from sparkdl.data.features.image import ImageEncoder
from sparkdl.data.features.moments import Moments, checked_numbers
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.features.text import TextEncoder, words
from sparkdl.data.prepare.statistics import counted_values
from sparkdl.features import Categorical, Categories, Image, Numeric, Tensor, Text

many = drawn(300)
NAN, INF = math.nan, math.inf

LARGE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


def arrivals(rows: list, type_: pa.DataType) -> list[Any]:
    """The same rows as an Arrow array, a slice of one, chunks, a list, and where there is such a type large and
    dictionary-encoded."""
    plain = pa.array(rows, type_)
    forms = [
        plain,
        pa.array([*rows[:1], None, *rows, *rows[-1:]], type_)[len(rows[:1]) + 1 :][: len(rows)],
        pa.chunked_array([plain[: len(rows) // 2], plain[len(rows) // 2 :]], type_),
    ]
    if not pa.types.is_nested(type_):
        forms += [rows, plain.dictionary_encode(), pa.chunked_array([plain.dictionary_encode()] * 1)]
    if pa.types.is_list(type_):
        forms.append(plain.cast(pa.large_list(type_.value_type)))
    return [*forms, plain.cast(LARGE[type_])] if type_ in LARGE else forms


def assert_encodes(encoder: Any, rows: list, type_: pa.DataType, expected: list) -> None:
    """In every form the rows give these very bits."""
    shape = (len(rows), *encoder.shape)
    wanted = np.array(expected, dtype=encoder.dtype).reshape(shape)
    for column in arrivals(rows, type_):
        encoded = encoder.encode(column)
        assert encoded.dtype == encoder.dtype and encoded.shape == shape
        assert encoded.tobytes() == wanted.tobytes(), (encoded, wanted)


def assert_refuses(encoder: Any, rows: list, type_: pa.DataType, problem: str, bad: list[int]) -> None:
    """In every form the error names the column, how many rows are bad and the first of them."""
    for column in arrivals(rows, type_):
        with pytest.raises(SchemaError) as refused:
            encoder.encode(column)
        text = str(refused.value)
        assert text.startswith("column 'x': ") and problem in text
        assert f"in {len(bad)} of {len(rows)} rows; row {bad[0]} is " in text


def float32(x: float) -> float:
    return struct.unpack("f", struct.pack("f", x))[0]


def median(values: list[float]) -> float:
    values, middle = sorted(values) or [NAN], len(values) // 2
    return values[middle] if len(values) % 2 else values[middle - 1] * 0.5 + values[middle] * 0.5


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-6)


# --- Numeric

# Not so near to 0 that a standard deviation would scale 1.0 beyond float32.
fractions = st.floats(-1e6, 1e6).map(lambda x: x if abs(x) > 1e-9 else 0.0)
numbers = st.one_of(fractions, st.integers(-1000, 1000).map(float), st.just(-0.0))
missing = st.sampled_from([None, NAN])
fills = st.sampled_from(["mean", "median", "indicator", None, 0, -7.5])
scales = st.sampled_from(["standardize", "minmax", "none"])


def fitted_numeric(feature: Numeric, train: list, type_: pa.DataType, shape: tuple[int, ...]) -> NumericEncoder:
    """Fitted over two batches, as two tasks would."""
    half = len(train) // 2
    batches = [
        checked_numbers(pa.array(r, type_), name="x", shape=shape, unit="number", missing_allowed=True)
        for r in (train[:half], train[half:])
    ]
    first, second = (Moments.of(batch, shape) for batch in batches)
    matrix = np.concatenate(batches).reshape(-1, shape[-1] if shape else 1)
    medians = [median([x for x in column if x == x]) for column in matrix.T.tolist()]
    return NumericEncoder.fit(feature, first.merge(second), median=np.array(medians))


def scaled(x: float, mean: float, std: float, low: float, high: float, scale: str) -> float:
    if scale == "standardize":
        return float32((x - mean) / (std or 1.0))
    return float32((x - low) / (high - low if high > low else 1.0)) if scale == "minmax" else float32(x)


def check_statistics(known: list[float], mean: float, std: float, low: float, high: float) -> None:
    center = math.fsum(known) / len(known)
    assert mean == near(center) and (low, high) == (min(known), max(known))
    assert std == near(math.sqrt(math.fsum((x - center) ** 2 for x in known) / len(known)))


@many
@given(st.lists(st.one_of(numbers, missing), min_size=1), st.lists(st.one_of(numbers, missing)), fills, scales)
def test_numbers(train: list, rows: list, fill: Any, scale: str) -> None:
    known = [x for x in train if x is not None and x == x]
    if not known:
        with pytest.raises(SchemaError, match="no value that is not null"):
            fitted_numeric(Numeric("x", fill=0), train, pa.float64(), ())
        return
    encoder = fitted_numeric(Numeric("x", fill=fill, scale=scale), train, pa.float64(), ())
    check_statistics(known, encoder.mean, encoder.std, encoder.low, encoder.high)
    bad = [row for row, x in enumerate(rows) if x is None or x != x]
    if fill is None and bad:
        only_null = [row for row in bad if rows[row] is None]
        assert_refuses(encoder, rows, pa.float64(), "without a policy", only_null or bad)
        return
    stand_in = {"mean": encoder.mean, "indicator": encoder.mean, "median": median(known)}.get(fill, fill)
    statistics = (encoder.mean, encoder.std, encoder.low, encoder.high, scale)
    expected = [scaled(float(stand_in) if row in bad else x, *statistics) for row, x in enumerate(rows)]
    if fill == "indicator":
        expected = [(x, float(row in bad)) for row, x in enumerate(expected)]
    assert_encodes(encoder, rows, pa.float64(), expected)


@many
@given(st.lists(st.one_of(numbers, st.sampled_from([INF, -INF])), min_size=1), fills)
def test_infinite_numbers(rows: list, fill: Any) -> None:
    encoder = fitted_numeric(Numeric("x", fill=fill), [1.0, 2.0], pa.float64(), ())
    bad = [row for row, x in enumerate(rows) if math.isinf(x)]
    if bad:
        assert_refuses(encoder, rows, pa.float64(), "infinite value", bad)
    else:
        encoder.encode(pa.array(rows))


pairs = st.lists(st.one_of(numbers, missing), min_size=2, max_size=2)
pair_rows = st.lists(st.one_of(pairs, st.none()), min_size=1, max_size=8)


@many
@given(pair_rows, pair_rows, fills.filter(lambda fill: fill not in ("indicator", None)), scales)
def test_arrays_of_numbers(train: list, rows: list, fill: Any, scale: str) -> None:
    train = [*train, [1.0, 2.0]]
    known = [[row[i] for row in train if row is not None and row[i] is not None and row[i] == row[i]] for i in (0, 1)]
    type_ = pa.list_(pa.float64())
    encoder = fitted_numeric(Numeric("x", fill=fill, scale=scale), train, type_, (2,))
    statistics = list(zip(encoder.mean, encoder.std, encoder.low, encoder.high, strict=True))
    for i in (0, 1):
        check_statistics(known[i], *statistics[i])
    stand_in = {"mean": encoder.mean, "median": [median(k) for k in known]}.get(fill, (fill, fill))
    expected = []
    for row in rows:
        row = row or [None, None]
        whole = [float(stand_in[i]) if x is None or x != x else x for i, x in enumerate(row)]
        expected.append([scaled(x, *statistics[i], scale) for i, x in enumerate(whole)])
    assert_encodes(encoder, rows, type_, expected)


# --- Categorical


@many
@given(
    st.one_of(
        *(
            st.tuples(
                st.just(type_),
                st.lists(values, min_size=1),
                st.lists(st.one_of(values, st.none())),
                st.one_of(st.none(), values, st.just("category")),
            )
            for type_, values in (
                (pa.string(), st.sampled_from(["", "a", "b", "ä", "é", "e\u0301", "Ω", "😀", "zz", " a", "\x00"])),
                (pa.int64(), st.sampled_from([-(2**63), -1, 0, 1, 2, 2**31, 2**63 - 1])),
                (pa.int8(), st.integers(-3, 3)),
                (pa.bool_(), st.booleans()),
            )
        )
    ),
    st.one_of(st.none(), st.integers(1, 4)),
    st.integers(1, 2),
    st.booleans(),
)
def test_categories(drawn: tuple, max_size: int | None, min_count: int, is_label: bool) -> None:
    """`drawn` holds the type, values of the train split, rows, and what null is: an error, a value or a category."""
    type_, train, rows, null_is = drawn
    if null_is == "category" and is_label:
        return
    policy = {"missing": "category"} if null_is == "category" else {"fill": null_is}
    feature = Categorical("x", max_size=max_size, min_count=min_count, **policy)
    # A null among the rows of the train split counts as its fill, and as a category it is not counted.
    some = [*train, None] if null_is is not None else train
    counted = [
        (pair["values"], pair["counts"])
        for pair in counted_values(pa.array(some, type_), feature).value_counts().to_pylist()
    ]
    train = train if null_is in (None, "category") else [*train, null_is]
    kept = [v for v, n in sorted(Counter(train).items(), key=lambda p: (-p[1], p[0])) if n >= min_count][:max_size]
    if not kept or (is_label and len(kept) < 2):
        with pytest.raises(SchemaError, match="1 class" if kept else "lower min_count"):
            CategoricalEncoder.fit(feature, counted, is_label=is_label)
        return
    encoder = CategoricalEncoder.fit(feature, counted, is_label=is_label)
    kept = sorted(kept) if is_label else kept
    assert list(encoder.vocabulary) == kept
    assert encoder.size == len(kept) + (not is_label) + (null_is == "category")
    assert encoder_from_json(json.loads(json.dumps(encoder.to_json()))) == encoder
    if null_is not in (None, "category"):
        filled = [null_is if value is None else value for value in rows]
    else:
        filled = rows
    null = [row for row, value in enumerate(rows) if value is None]
    unseen = [row for row, value in enumerate(filled) if value not in kept]
    if null and null_is is None:
        assert_refuses(encoder, rows, type_, "null without a policy", null)
    elif is_label and unseen:
        assert_refuses(
            encoder, rows, type_, f"label is not among the {len(kept)} classes kept from the train split", unseen
        )
    else:
        offset = 0 if is_label else 1
        codes = [kept.index(v) + offset if v in kept else 0 for v in filled]
        if null_is == "category":
            codes = [encoder.size - 1 if v is None else code for v, code in zip(rows, codes, strict=True)]
        assert_encodes(encoder, rows, type_, codes)


# --- Categories


@many
@given(
    st.one_of(
        *(
            st.tuples(
                st.just(pa.list_(type_)),
                st.lists(st.lists(values, max_size=4), min_size=1),
                st.lists(st.one_of(st.none(), st.lists(st.one_of(values, values, st.none()), max_size=5))),
            )
            for type_, values in (
                (pa.string(), st.sampled_from(["", "a", "b", "ä", "😀", "zz"])),
                (pa.int32(), st.integers(-2, 2)),
                (pa.bool_(), st.booleans()),
            )
        )
    ),
    st.sampled_from([None, 1, 3]),
    st.sampled_from(["multi_hot", "ids"]),
    st.sampled_from(["error", "empty"]),
    st.integers(1, 4),
)
def test_arrays_of_categories(drawn: tuple, max_size: int | None, output: str, missing: str, length: int) -> None:
    type_, train, rows = drawn
    counts = Counter(value for row in train for value in row)
    if not counts:
        return
    is_ids = output == "ids"
    feature = Categories("x", max_size=max_size, output=output, missing=missing, length=length if is_ids else None)
    counted = counted_values(pa.array(train, type_), feature).value_counts().to_pylist()
    encoder = CategoriesEncoder.fit(feature, [(c["values"], c["counts"]) for c in counted], is_label=False)
    kept = [v for v, n in sorted(counts.items(), key=lambda p: (-p[1], p[0]))][:max_size]
    assert list(encoder.vocabulary) == kept and encoder.size == len(kept) + (2 if is_ids else 1)
    null = [row for row, value in enumerate(rows) if value is None]
    inside = [row for row, value in enumerate(rows) if value and None in value]
    if missing == "error" and null:
        assert_refuses(encoder, rows, type_, "null without a policy", null)
    elif missing == "error" and inside:
        assert_refuses(encoder, rows, type_, "null inside an array without a policy", inside)
    else:
        known = [[value for value in row or [] if value is not None] for row in rows]
        if is_ids:
            codes = [[kept.index(v) + 2 if v in kept else 1 for v in row[:length]] for row in known]
            expected = [row + [0] * (length - len(row)) for row in codes]
        else:
            held = [{kept.index(v) + 1 if v in kept else 0 for v in row} for row in known]
            expected = [[float(code in codes) for code in range(encoder.size)] for codes in held]
        assert_encodes(encoder, rows, type_, expected)


@many
@given(st.lists(st.lists(st.floats(width=32), max_size=5)), st.integers(-3, 3), st.sampled_from(["float32", "float64"]))
def test_arrays_that_are_padded(rows: list, pad: int, dtype: str) -> None:
    type_ = pa.list_(pa.float64())
    encoder = TensorEncoder.fit(Tensor("x", shape=(4,), pad=pad, dtype=dtype), pa.array([[1.0]], type_))
    assert encoder_from_json(json.loads(json.dumps(encoder.to_json()))) == encoder
    long = [row for row, value in enumerate(rows) if len(value) > 4]
    if long:
        assert_refuses(encoder, rows, type_, "array of more than 4 elements", long)
    else:
        assert_encodes(encoder, rows, type_, [[*row, *[pad] * (4 - len(row))] for row in rows])


# --- Text

CHARACTERS = "aabbAB019_ ..,-'\n\t\u00a0\u2019\u2014€äÄßẞÉe\u0301ΣσςЖж中文अनु१Ⅷ²😀\u200b\x00"
texts = st.text(st.sampled_from(CHARACTERS), max_size=30)


def split_words(text: str) -> list[str]:
    found, current = [], ""
    for character in [*text, " "]:
        if character == "_" or unicodedata.category(character)[0] in "LMN":
            current += character.lower()
        elif current:
            found.append(current)
            current = ""
    return found


@many
@given(
    st.lists(st.one_of(texts, st.none()), min_size=1),
    st.lists(st.one_of(texts, st.none())),
    st.integers(1, 5),
    st.integers(1, 12),
    st.integers(1, 2),
    st.sampled_from([None, "", "b a"]),
    st.sampled_from([None, "NFC", "NFKC"]),
)
def test_texts(
    train: list, rows: list, length: int, max_size: int, min_count: int, fill: str | None, form: str | None
) -> None:
    def words_of(text: str) -> list[str]:
        return split_words(unicodedata.normalize(form, text) if form else text)

    whole = [text or "" for text in train]
    counts = Counter(word for text in whole for word in words_of(text))
    found, lengths = words(pa.array(whole), name="x", fill=None, normalize=form)
    assert lengths.tolist() == [len(words_of(text)) for text in whole]
    counted = [(pair["values"], pair["counts"]) for pair in found.value_counts().to_pylist()]
    kept = [w for w, n in sorted(counts.items(), key=lambda p: (-p[1], p[0])) if n >= min_count][:max_size]
    feature = Text("x", length=length, max_size=max_size, min_count=min_count, fill=fill, normalize=form)
    if not kept:
        with pytest.raises(SchemaError, match="lower min_count"):
            TextEncoder.fit(feature, counted)
        return
    encoder = TextEncoder.fit(feature, counted)
    assert list(encoder.vocabulary) == kept and encoder.size == len(kept) + 2
    null = [row for row, text in enumerate(rows) if text is None]
    if fill is None and null:
        assert_refuses(encoder, rows, pa.string(), "null without a policy", null)
        return
    expected = []
    for text in rows:
        ids = [kept.index(w) + 2 if w in kept else 1 for w in words_of(fill if text is None else text)][:length]
        expected.append(ids + [0] * (length - len(ids)))
    assert_encodes(encoder, rows, pa.string(), expected)


# --- Tensor

SCALARS = {
    "double": (pa.float64(), st.one_of(numbers, st.sampled_from([NAN, INF, -INF])), float, "f"),
    "float": (pa.float32(), st.floats(width=32), float, "f"),
    "long": (pa.int64(), st.integers(-(2**63), 2**63 - 1), int, "q"),
    "short": (pa.int16(), st.integers(-(2**15), 2**15 - 1), int, "i"),
    "boolean": (pa.bool_(), st.booleans(), bool, "?"),
    "decimal": (
        pa.decimal128(38, 12),
        st.decimals(-(10**20), 10**20, places=12, allow_nan=False).map(
            lambda d: d.quantize(decimal.Decimal("1e-12"), context=decimal.Context(prec=38))
        ),
        float,
        "f",
    ),
    "date": (pa.date32(), st.dates(), lambda d: (d - dt.date(1970, 1, 1)).days, "i"),
    "timestamp": (
        pa.timestamp("us", "UTC"),
        st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2240, 1, 1), timezones=st.just(dt.timezone.utc)),
        lambda t: float(decimal.Decimal(calendar.timegm(t.timetuple())) + decimal.Decimal(t.microsecond) / 10**6),
        "d",
    ),
    "timestamp_ntz": (
        pa.timestamp("us"),
        st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2240, 1, 1)),
        lambda t: float(decimal.Decimal(calendar.timegm(t.timetuple())) + decimal.Decimal(t.microsecond) / 10**6),
        "d",
    ),
}


@many
@given(st.sampled_from(sorted(SCALARS)), st.data())
def test_scalars_as_they_are(kind: str, data: st.DataObject) -> None:
    type_, values, number, code = SCALARS[kind]
    rows = data.draw(st.lists(st.one_of(values, values, st.none()), min_size=1))
    encoder = TensorEncoder.fit(Tensor("x"), pa.array([data.draw(values)], type_))
    null = [row for row, value in enumerate(rows) if value is None]
    assert encoder.dtype == np.dtype(code)
    if null:
        assert_refuses(encoder, rows, type_, "null without a policy", null)
    else:
        assert_encodes(encoder, rows, type_, [struct.unpack(code, struct.pack(code, number(v)))[0] for v in rows])
        # Microseconds survive.
        if kind.startswith("timestamp"):
            start = dt.datetime(1970, 1, 1, tzinfo=rows[0].tzinfo)
            micros = [(value - start) // dt.timedelta(microseconds=1) for value in rows]
            # In fractions: a product of floats would round a second time.
            seconds = encoder.encode(pa.array(rows, type_)).tolist()
            assert [round(Fraction(second) * 10**6) for second in seconds] == micros


grids = st.lists(st.lists(st.one_of(numbers, st.just(NAN)), min_size=1, max_size=3), min_size=1, max_size=3)


@many
@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.one_of(grids, st.none()), max_size=3), st.data())
def test_nested_arrays_as_they_are(high: int, wide: int, odd: list, data: st.DataObject) -> None:
    right = st.lists(st.lists(numbers, min_size=wide, max_size=wide), min_size=high, max_size=high)
    rows = data.draw(st.permutations([*data.draw(st.lists(right, max_size=3)), *odd]))
    type_ = pa.list_(pa.list_(pa.float64()))
    encoder = TensorEncoder.fit(Tensor("x"), pa.array([[[0.0] * wide] * high], type_))
    null = [row for row, value in enumerate(rows) if value is None]
    wrong = [row for row, value in enumerate(rows) if value is not None and len(value) != high]
    ragged = [row for row, value in enumerate(rows) if any(len(line) != wide for line in value or [])]
    if null:
        assert_refuses(encoder, rows, type_, "null without a policy", null)
    elif wrong or ragged:
        assert_refuses(encoder, rows, type_, "ragged array", wrong or ragged)
    else:
        assert_encodes(encoder, rows, type_, rows)


VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)


@st.composite
def vectors(draw: st.DrawFn) -> tuple[dict, list[float]]:
    """A dense or sparse ML vector of size 4 as Spark sends it, and its elements."""
    if draw(st.booleans()):
        values = draw(st.lists(numbers, min_size=4, max_size=4))
        return {"type": 1, "size": None, "indices": None, "values": values}, values
    kept = draw(st.dictionaries(st.integers(0, 3), numbers))
    indices = sorted(kept)
    sparse = {"type": 0, "size": 4, "indices": indices, "values": [kept[i] for i in indices]}
    return sparse, [kept.get(i, 0.0) for i in range(4)]


@many
@given(st.lists(vectors()), st.lists(st.booleans()))
def test_vectors_as_they_are(drawn: list, nulls: list[bool]) -> None:
    encoder = TensorEncoder.fit(Tensor("x"), pa.array([{"type": 0, "size": 4, "indices": [], "values": []}], VECTOR))
    assert_encodes(encoder, [raw for raw, _ in drawn], VECTOR, [list(map(float32, values)) for _, values in drawn])
    rows = [None if null else raw for (raw, _), null in zip(drawn, nulls, strict=False)]
    filled = fitted_numeric(Numeric("x", fill=3, scale="none"), [[1.0] * 4], pa.list_(pa.float64()), (4,))
    expected = [[3.0] * 4 if null else values for (_, values), null in zip(drawn, nulls, strict=False)]
    assert_encodes(filled, rows, VECTOR, [list(map(float32, values)) for values in expected])


# --- Image

COLOURS = {"1": 1, "L": 1, "LA": 2, "P": 1, "RGB": 3, "RGBA": 4, "I;16": 1}


def grey(red: int, green: int, blue: int) -> int:
    """ITU-R 601 luma in 16-bit fixed point, rounded."""
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def pixel(mode: str, value: Any, palette: list[int], channels: int) -> list[int]:
    """What one pixel of an image in this mode becomes."""
    if mode == "P":
        value = palette[3 * value : 3 * value + 3]
    elif mode in ("RGB", "RGBA"):
        value = list(value[:3])
    else:
        level = {"LA": lambda v: v[0], "I;16": lambda v: v >> 8, "1": lambda v: 255 if v else 0}.get(mode, lambda v: v)
        return [level(value)] * channels
    return value if channels == 3 else [grey(*value)]


@st.composite
def pictures(draw: st.DrawFn, channels: int) -> tuple[bytes, list | None]:
    """Encoded bytes and the rows of pixels that they hold; None if they are no image."""
    from PIL import Image as Pillow

    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=40)), None
    mode = draw(st.sampled_from(sorted(COLOURS)))
    width, height = draw(st.sampled_from([(1, 1), (3, 2), (3, 2)]))
    # A whole number of two bytes for 16 bits, a byte for each colour otherwise.
    count, wide = width * height, 2 if mode == "I;16" else COLOURS[mode]
    raw = draw(st.binary(min_size=count * wide, max_size=count * wide))
    values: list = [tuple(raw[place * wide : (place + 1) * wide]) for place in range(count)]
    if mode == "I;16":
        values = [high * 256 + low for high, low in values]
    elif wide == 1:
        values = [value % 2 * 255 if mode == "1" else value for (value,) in values]
    image = Pillow.new(mode, (width, height))
    palette = list(draw(st.binary(min_size=768, max_size=768))) if mode == "P" else []
    if mode == "P":
        image.putpalette(palette)
    for place, value in enumerate(values):
        image.putpixel((place % width, place // width), value)
    options = {"transparency": draw(st.binary(min_size=1, max_size=9))} if mode == "P" and draw(st.booleans()) else {}
    format_ = "TIFF" if not options and draw(st.booleans()) else "PNG"
    encoded = io.BytesIO()
    image.save(encoded, format_, **options)
    content = encoded.getvalue()
    if draw(st.integers(0, 5)) == 0:
        # Half of the file: its header is there, its pixels are not.
        return content[: len(content) // 2], None
    pixels = [pixel(mode, value, palette, channels) for value in values]
    return content, [pixels[row * width : (row + 1) * width] for row in range(height)]


def resized(pixels: list, height: int, width: int) -> list:
    """The picture, blown up with Pillow where it is of another size."""

    if (len(pixels), len(pixels[0])) == (height, width):
        return pixels
    assert len(pixels) == len(pixels[0]) == 1
    # One pixel of one colour stays of that colour, however large.
    return [[pixels[0][0]] * width] * height


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of some damaged files, too
@many
@given(st.sampled_from([1, 3]), st.sampled_from([None, 0, 200]), st.data())
def test_images(channels: int, fill: int | None, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.one_of(pictures(channels), st.just((None, None))), max_size=5))
    rows = [content for content, _ in drawn]
    for store in ("pixels", "encoded"):
        feature = Image("x", height=2, width=3, channels=channels, store=store, fill=fill)
        encoder = ImageEncoder.fit(feature, pa.binary())
        null = [row for row, content in enumerate(rows) if content is None]
        damaged = [row for row, (content, pixels) in enumerate(drawn) if content is not None and pixels is None]
        if fill is None and null:
            assert_refuses(encoder, rows, pa.binary(), "null without a policy", null)
        elif fill is None and damaged:
            assert_refuses(encoder, rows, pa.binary(), "image cannot be decoded", damaged)
        else:
            plain = [[[fill] * channels] * 3] * 2
            expected = [plain if pixels is None else resized(pixels, 2, 3) for _, pixels in drawn]
            assert_encodes(encoder, rows, pa.binary(), expected)
            for column in arrivals(rows, pa.binary()):
                kept = encoder.to_bytes(column)
                assert kept.type == pa.binary()
                assert kept.to_pylist() == [None if p is None else content for content, p in drawn]
                assert encoder.encode(kept).tobytes() == encoder.encode(column).tobytes()


STRUCT = pa.struct(
    [
        ("origin", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("nChannels", pa.int32()),
        ("mode", pa.int32()),
        ("data", pa.binary()),
    ]
)


@many
@given(
    st.sampled_from([1, 3]),
    st.lists(st.tuples(st.sampled_from([0, 16, 24, -1, 5]), st.binary(min_size=24, max_size=24), st.booleans())),
)
def test_images_of_spark(channels: int, drawn: list) -> None:
    """Three by two pixels in OpenCV's order: blue, green, red, alpha."""
    rows: list[dict | None] = []
    expected = []
    for mode, content, short in drawn:
        count = {0: 1, 16: 3, 24: 4}.get(mode, 0)
        raw = content[: 6 * count - short] if count else content
        rows.append({"origin": "", "height": 2, "width": 3, "nChannels": count, "mode": mode, "data": raw})
        if not count or short:
            expected.append([[[9] * channels] * 3] * 2)
            continue
        pixels = [list(raw[place * count : (place + 1) * count]) for place in range(6)]
        colours = [p * 3 if count == 1 else [p[2], p[1], p[0]] for p in pixels]
        done = [c if channels == 3 else [c[0] if count == 1 else grey(*c)] for c in colours]
        expected.append([done[:3], done[3:]])
    rows.append(None)
    expected.append([[[9] * channels] * 3] * 2)
    feature = Image("x", height=2, width=3, channels=channels, fill=9, store="encoded")
    encoder = ImageEncoder.fit(feature, STRUCT)
    assert_encodes(encoder, rows, STRUCT, expected)
    assert_encodes(encoder, encoder.to_bytes(pa.array(rows, STRUCT)).to_pylist(), pa.binary(), expected)


@pytest.mark.filterwarnings("ignore")
@drawn(600)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    st.integers(0, 10_000),
)
def test_damaged_bytes_are_an_image_or_a_fill_and_nothing_else(format_: str, changes: list, cut: int) -> None:
    from PIL import Image as Pillow

    encoded = io.BytesIO()
    Pillow.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(encoded, format_)
    content = bytearray(encoded.getvalue())
    for place, value in changes:
        content[place % len(content)] = value
    damaged = bytes(content[: cut % (len(content) + 1)]) if cut % 2 else bytes(content)
    filled = ImageEncoder.fit(Image("x", height=8, width=8, fill=0), pa.binary())
    strict = ImageEncoder.fit(Image("x", height=8, width=8), pa.binary())
    pixels = filled.encode(pa.array([damaged]))
    try:
        assert (strict.encode(pa.array([damaged])) == pixels).all()
    except SchemaError as error:
        assert "\n" not in str(error) and not pixels.any()
