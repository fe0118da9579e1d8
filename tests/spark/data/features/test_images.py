"""Images, stored as pixels and as they came: the feed gives the same arrays, and those that scoring decodes."""

import io

import numpy as np
import pyarrow as pa
import pytest

import sparkdl
from paths import DATA
from sparkdl import PrepareConfig, ReaderConfig, SchemaError
from sparkdl.data.feed.feed import Feed
from sparkdl.features import Categorical, Image

SIZE = {"height": 6, "width": 5, "channels": 3}


def encoded(i: int) -> bytes:
    """A picture of its own for each id: PNG or JPEG, of several sizes."""
    from PIL import Image as Pillow

    pixels = np.random.default_rng(i).integers(0, 256, (6 + i % 3, 5 + i % 2, 3), dtype=np.uint8)
    content = io.BytesIO()
    Pillow.fromarray(pixels).save(content, "JPEG" if i % 5 == 0 else "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def pictures(spark):
    rows = [(i, bytearray(encoded(i)), i % 2) for i in range(90)] + [(90, None, 0), (91, bytearray(b"no image"), 1)]
    return spark.createDataFrame(rows, "id int, picture binary, y int").repartition(3)


def by_label_and_content(dataset, reader, world_size=1):
    """All images of two epochs as (label, bytes), sorted."""
    found = []
    for rank in range(world_size):
        feed = Feed(
            dataset,
            dataset.split("train"),
            rank=rank,
            world_size=world_size,
            global_batch_size=8,
            seed=1,
            reader=reader,
            cores=2,
        )
        for block in feed.blocks([0, 1]):
            fed = dict(zip([group.fields[0].name for group in dataset.layout.groups], block.arrays, strict=True))
            for start, rows in zip(block.starts, block.rows, strict=True):
                images, labels = (fed[name][start : start + rows] for name in ("picture", "y"))
                found += [(int(y), image.tobytes()) for image, y in zip(images, labels, strict=True)]
    return sorted(found)


def test_stored_pixels_and_stored_bytes_feed_what_scoring_decodes(pictures, tmp_path) -> None:
    expected, fed = None, {}
    for store in ("pixels", "encoded"):
        config = PrepareConfig(
            path=str(tmp_path / store),
            features=[Image("picture", **SIZE, store=store, fill=7)],
            label="y",
            keep=["id"],
        )
        dataset = sparkdl.prepare(pictures, config)
        rows = pictures.collect()
        raw = pa.array([None if row.picture is None else bytes(row.picture) for row in rows], pa.binary())
        scored = dataset.features["picture"].encode(raw)
        expected = sorted([(row.y, image.tobytes()) for row, image in zip(rows, scored, strict=True)] * 2)
        for reader, workers in (
            (ReaderConfig(in_memory=True), 1),
            (ReaderConfig(in_memory=False), 1),
            (ReaderConfig(in_memory=False, cache=True), 3),
        ):
            fed[store, reader, workers] = by_label_and_content(dataset, reader, workers)
    assert len(fed) == 6
    assert all(found == expected for found in fed.values())


def test_encoded_images_take_the_space_of_their_files_and_come_back_as_they_were(pictures, spark, tmp_path) -> None:
    config = PrepareConfig(
        path=str(tmp_path / "d"), features=[Image("picture", **SIZE, store="encoded", fill=0)], label="y", keep=["id"]
    )
    dataset = sparkdl.prepare(pictures, config)
    back = {row.id: row.picture for row in sparkdl.read_prepared(spark, dataset.path, "train").collect()}
    assert all(bytes(back[i]) == encoded(i) for i in range(90))
    assert back[90] is None and back[91] is None


@pytest.mark.parametrize("store", ["pixels", "encoded"])
def test_a_broken_image_is_an_error_without_a_fill(pictures, tmp_path, store) -> None:
    config = PrepareConfig(path=str(tmp_path / "d"), features=[Image("picture", **SIZE, store=store)], label="y")
    with pytest.raises(SchemaError, match="column 'picture': null without a policy"):
        sparkdl.prepare(pictures.where("id <= 90"), config)
    with pytest.raises(SchemaError, match=r"column 'picture': image cannot be decoded .* row \d+ is b'no image'"):
        sparkdl.prepare(pictures.where("picture IS NOT NULL"), config)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_model_of_encoded_images_alone_has_a_record(pictures, tmp_path) -> None:
    config = PrepareConfig(path=str(tmp_path / "d"), features=[Image("picture", **SIZE, store="encoded", fill=0)])
    dataset = sparkdl.prepare(pictures, config)
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=32, seed=0)
    assert sum(int(block.rows.sum()) for block in feed.blocks([0])) == 92


@pytest.mark.parametrize("share", [pytest.param(1, marks=pytest.mark.soak), 10])
def test_the_images_of_mnist_are_those_that_pillow_decodes(spark, tmp_path, share) -> None:
    from PIL import Image as Pillow

    if not (DATA / "mnist_train.parquet").exists():
        pytest.skip(f"no {DATA / 'mnist_train.parquet'}")
    raw = spark.read.parquet(str(DATA / "mnist_train.parquet")).where(f"hash(path) % {share} = 0").cache()
    config = PrepareConfig(
        path=str(tmp_path / "d"),
        features=[Image("content", height=28, width=28, channels=1)],
        label=Categorical("label"),
        keep=["path"],
    )
    dataset = sparkdl.prepare(raw, config)
    assert dataset.split("train").rows == raw.count() > 50_000 / share and dataset.classes == tuple(range(10))
    prepared = sparkdl.read_prepared(spark, dataset.path, "train")
    by_label = {row.label: row["count"] for row in prepared.groupBy("label").count().collect()}
    assert by_label == {row.label: row["count"] for row in raw.groupBy("label").count().collect()}
    some = {row.path: bytes(row.content) for row in raw.where("hash(path) % 200 = 0").collect()}
    assert len(some) > 100
    for row in prepared.where("hash(path) % 200 = 0").collect():
        pixels = np.asarray(Pillow.open(io.BytesIO(some[row.path])))
        assert (np.array(row.content).reshape(28, 28) == pixels).all()
