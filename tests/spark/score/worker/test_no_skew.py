"""What a model is trained on is what it is scored on, bit by bit, for rows as odd as hypothesis makes them."""

import io
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparkdl
from draws import ALL
from sparkdl import PrepareConfig, Split
from sparkdl.data.feed.feed import Feed
from sparkdl.features import Categorical, Categories, Image, Numeric, Tensor, Text

COLUMNS = (
    "id long, age double, seen int, hours array<double>, job string, code long, note string, grid array<array<float>>, "
    "face binary, scan binary, mood string, rank int, tags array<string>, codes array<int>, steps array<double>, "
    "load float, sum decimal(20,7), sure boolean"
)


def png(pixels: list[int]) -> bytes:
    from PIL import Image as Pillow

    content = io.BytesIO()
    Pillow.frombytes("RGB", (2, 2), bytes(pixels)).save(content, "PNG")
    return content.getvalue()


numbers = st.floats(-1e30, 1e30, allow_subnormal=False)
missing = st.one_of(st.none(), st.just(math.nan), numbers)
images = st.one_of(
    st.none(),
    st.binary(max_size=30),
    st.lists(st.integers(0, 255), min_size=12, max_size=12).map(png),
)
row = st.tuples(
    missing,
    st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
    st.lists(missing, min_size=3, max_size=3),
    st.text(max_size=5),
    st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3),
    st.one_of(st.none(), st.text(max_size=20), st.lists(st.sampled_from(["ab", "Ab", "éÉ", "12", "…"])).map(" ".join)),
    st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=2, max_size=2),
    images,
    images,
    st.one_of(st.none(), st.sampled_from(["calm", "wild", "Wild"])),
    st.one_of(st.none(), st.integers(0, 3)),
    st.one_of(st.none(), st.lists(st.one_of(st.none(), st.text(max_size=2)), max_size=4)),
    st.lists(st.integers(0, 5), max_size=5),
    st.lists(st.floats(-9, 9), max_size=4),
    st.one_of(st.none(), st.floats(width=32, allow_infinity=False)),
    st.one_of(st.none(), st.decimals(-(10**12), 10**12, places=7)),
    st.booleans(),
)
FEATURES = [
    Numeric("age", fill="mean"),
    Numeric("seen", fill="indicator", scale="minmax"),
    Numeric("hours", fill="median"),
    Categorical("job", max_size=4),
    Categorical("code", min_count=2),
    Text("note", length=3, fill=""),
    Tensor("grid"),
    Image("face", height=3, width=2, fill=9),
    Image("scan", height=3, width=2, channels=1, store="encoded", fill=0),
    Categorical("mood", missing="category"),
    Categorical("rank", fill=2),
    Categories("tags", max_size=2, missing="empty"),
    Categories("codes", output="ids", length=3),
    Tensor("steps", shape=(4,), pad=-1),
    Numeric(["load", "code", "sum", "sure", "age"], name="numbers", fill="mean"),
]


def identity_model(encoders):
    """A model whose outputs are its inputs."""
    import keras

    inputs = {e.name: keras.Input(e.shape, name=e.name, dtype=e.dtype.name) for e in encoders}
    # A reshape computes nothing, and every output has a row axis and one more.
    outputs = {f"{n}_out": keras.layers.Reshape((-1,), name=f"{n}_out")(value) for n, value in inputs.items()}
    return keras.Model(inputs, outputs)


def fed_by_id(dataset) -> dict[int, dict[str, bytes]]:
    """The bytes of every field of every row of the train split, by its `id` feature."""
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=7, seed=3)
    rows: dict[int, dict[str, bytes]] = {}
    for block in feed.blocks([0]):
        values = {}
        for group, array in zip(dataset.layout.groups, block.arrays, strict=True):
            for place, field in enumerate(group.fields):
                values[field.name] = array if len(group.fields) == 1 else array[:, place]
        for start, stop in zip(block.starts, block.stops, strict=True):
            for place in range(start, stop):
                rows[int(values["id"][place])] = {name: v[place].tobytes() for name, v in values.items()}
    return rows


@pytest.mark.timeout(600)
@settings(max_examples=5 if ALL else 1, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(row, min_size=60, max_size=120))
def test_prepared_rows_and_scored_rows_are_the_same_bits(spark, tmp_path_factory, rows) -> None:
    from sparkdl.model.save import write_model

    folder = tmp_path_factory.mktemp("skew")
    # Some values of their own, so that every vocabulary and every mean has something to learn from.
    sure = [(1.0, 2, [0.5, 1.5, 2.5], "a", 1, "a b", [[0.0, 1.0]] * 2, png([7] * 12), png([8] * 12))] * 40
    sure = [(*values, "calm", 1, ["x", "y"], [1, 2], [0.5], 0.5, Decimal(1), True) for values in sure]
    table = [(i, *values) for i, values in enumerate([*sure, *rows])]
    raw = spark.createDataFrame(table, COLUMNS).repartition(3)
    dataset = sparkdl.prepare(
        raw,
        PrepareConfig(
            path=str(folder / "d"),
            features=[*FEATURES, Tensor("id")],
            splits=Split.fraction({"train": 0.7, "test": 0.3}, seed=1, key="id"),
        ),
    )
    encoders = tuple(encoder for encoder in dataset.encoders if encoder.name != "id")
    write_model(
        identity_model(encoders),
        str(folder / "model"),
        encoders=encoders,
        label_encoders=(),
        raw_types=dataset.raw_types_of_features,
    )
    fed = fed_by_id(dataset)
    assert len(fed) == dataset.split("train").rows
    udf = sparkdl.predict_udf(str(folder / "model"))
    for scored in (
        sparkdl.transform(raw, str(folder / "model"), output_col="p").select("id", "p"),
        raw.select("id", udf().alias("p")),
    ):
        found = {r["id"]: r["p"] for r in scored.collect()}
        assert len(found) == len(table)
        for number, expected in fed.items():
            for encoder in encoders:
                value = np.asarray(found[number][f"{encoder.name}_out"]).astype(encoder.dtype)
                assert value.tobytes() == expected[encoder.name], (number, encoder.name)
