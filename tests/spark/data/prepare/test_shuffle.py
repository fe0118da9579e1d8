"""Shuffling: sorted rows come out of prepare and plan as mixed as rows drawn one by one, another way every epoch."""

import numpy as np
import pytest
from pyspark.sql import functions as F

import sparkdl
from sparkdl import PrepareConfig
from sparkdl.data.feed.feed import Feed
from sparkdl.features import Numeric, Tensor

ROWS = 24_000


@pytest.fixture(scope="module", params=[2, 10], ids=["2 classes", "10 classes"])
def sorted_by_label(request, spark, tmp_path_factory):
    """The number of classes, and a dataset whose rows came sorted by their class."""
    classes = request.param
    rows = spark.range(ROWS).selectExpr("id", f"int(id div {ROWS // classes}) as y", "float(id) as x").orderBy("id")
    path = str(tmp_path_factory.mktemp("sorted") / "d")
    return classes, sparkdl.prepare(rows, PrepareConfig(path=path, features=["x"], label="y", keep=["id"], seed=1))


def labels_of_batches(dataset, batch, epochs):
    """The labels of every full batch of these epochs: int, shape (batches, batch)."""
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=batch, seed=2)
    found = [
        block.arrays[1][start:stop].copy()  # the second group is the only int32
        for block in feed.blocks(epochs)
        for start, stop in zip(block.starts, block.stops, strict=True)
        if stop - start == batch
    ]
    return np.stack(found)


@pytest.mark.parametrize("batch", [32, 256, 1024])
def test_batches_of_label_sorted_rows_are_as_mixed_as_independent_draws(sorted_by_label, batch) -> None:
    classes, dataset = sorted_by_label
    # Enough batches that the deviation itself is known to a few percent.
    labels = labels_of_batches(dataset, batch, range(max(2, 12 * batch // 1024)))
    share = 1 / classes
    expected = np.sqrt(share * (1 - share) / batch)
    # (batches, classes): the share of each class in each batch
    shares = np.stack([(labels == c).mean(axis=1) for c in range(classes)], axis=1)
    deviations = np.sqrt(np.square(shares - share).mean(axis=0))
    assert np.sqrt(np.square(deviations).mean()) <= 1.2 * expected
    # Nor is any one part of the epoch poorer: no class is missing or doubled for long.
    assert np.abs(shares - share).max() <= 6 * expected


def test_every_epoch_reads_the_row_groups_in_an_order_of_its_own(sorted_by_label) -> None:
    _, dataset = sorted_by_label
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=256, seed=2)
    orders = [tuple(feed.plan(epoch).reading_order(0, 1)) for epoch in range(5)]
    assert len(set(orders)) == 5


def test_equal_rows_are_shuffled_like_others(spark, tmp_path) -> None:
    rows = spark.range(400_000).selectExpr("int(id % 2) as x", "int(id % 2) as y")
    config = PrepareConfig(path=str(tmp_path / "d"), features=["x"], label=Tensor("y"), lanes=8, seed=1)
    dataset = sparkdl.prepare(rows, config)
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=1024, seed=2)
    shares = []
    for block in feed.blocks([0]):
        values = block.arrays[0][:, 0]  # both are int32
        shares += [values[a:b].mean() for a, b in zip(block.starts, block.stops, strict=True) if b - a == 1024]
    assert np.std(shares) <= 1.2 * np.sqrt(0.25 / 1024)
    # Nor does one part hold them all.
    sizes = [sum(part.row_groups) for part in dataset.parts]
    assert max(sizes) <= 1.1 * min(sizes)


def test_the_stored_order_of_rows_with_nulls_and_maps_does_not_depend_on_partitions(spark, tmp_path) -> None:
    values = [f"if(id % 3 = {r}, null, double(id div 3)) as {name}" for r, name in enumerate("ab")]
    kept = "map('a', id % 5, 'b', id % 7) as m"
    rows = spark.range(300).selectExpr(*values, kept, "double(id % 2) as c")
    stored = []
    for place, table in enumerate((rows.orderBy(F.rand(1)).coalesce(1), rows.orderBy(F.rand(2)).repartition(5))):
        config = PrepareConfig(
            path=str(tmp_path / str(place)), features=[Numeric("a", fill=0), Numeric("b", fill=0), "c"], keep=["m"]
        )
        dataset = sparkdl.prepare(table, config)
        stored.append([r.asDict() for r in sparkdl.read_prepared(spark, dataset.path, "train").collect()])
    assert stored[0] == stored[1]
