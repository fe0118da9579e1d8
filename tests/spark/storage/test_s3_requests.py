"""Reading from a store moves the bytes that are needed, by few requests: counted between the reader and the server."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

import sparkdl
from counting_store import CountingStore
from sparkdl import PrepareConfig, ReaderConfig, storage
from sparkdl.data.feed.feed import Feed
from sparkdl.features import Tensor
from sparkdl.score.parquet.input import InputFile
from sparkdl.score.parquet.part import Run, _batches

ROWS = 6000


@pytest.fixture(scope="module")
def store(s3_environment):
    with CountingStore(s3_environment["AWS_ENDPOINT_URL"]) as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", store.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield store
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def dataset(store, spark, tmp_path_factory):
    """Of many row groups in few files, on the store; kept columns lie beside the records."""
    local = str(tmp_path_factory.mktemp("local") / "data")
    rows = spark.range(ROWS).selectExpr("id", "transform(sequence(1, 256), i -> float(id + i)) AS x", "string(id) AS s")
    config = PrepareConfig(path=local, features=[Tensor("x")], keep=["id", "s"], lanes=48)
    sparkdl.prepare(rows, config)
    s3fs.S3FileSystem().mkdir("counted")
    s3fs.S3FileSystem().put(local, "counted/data", recursive=True)
    return sparkdl.open_dataset("s3://counted/data")


def test_an_epoch_moves_its_bytes_by_one_request_for_each_row_group(store, dataset) -> None:
    split = dataset.split("train")
    groups = len(split.row_group_rows)
    needed = 0
    for part in split.parts:
        footer = pq.ParquetFile(f"{dataset.path}/{part.file}".replace("s3://", ""), filesystem=s3fs.S3FileSystem())
        for group in range(footer.metadata.num_row_groups):
            needed += footer.metadata.row_group(group).column(0).total_compressed_size
    assert groups >= 40 and needed > ROWS * 256 * 4
    store.reset()
    feed = Feed(
        dataset, split, rank=0, world_size=1, global_batch_size=64, seed=0, reader=ReaderConfig(in_memory=False)
    )
    rows = sum(int(block.rows.sum()) for block in feed.blocks([0]))
    assert rows == ROWS
    assert store.sent <= 1.1 * needed
    # Besides, each file's footer once, and that of the first file for Petastorm's schema.
    assert store.requests["GET"] <= groups + 2 * len(split.parts) + 4 and store.requests["HEAD"] <= 2
    store.reset()
    assert sum(int(block.rows.sum()) for block in feed.blocks([1])) == ROWS
    assert sum(store.requests.values()) <= 4, "the second epoch comes from the local disk"


def test_scoring_reads_the_columns_that_it_needs_by_few_requests(store, tmp_path) -> None:
    table = pa.table({"x": pa.array(range(40_000), pa.float64()), "unread": [f"{i:0200d}" for i in range(40_000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2000, compression="none", use_dictionary=False)
    s3fs.S3FileSystem().mkdir("scored")
    s3fs.S3FileSystem().put(str(tmp_path / "a.parquet"), "scored/a.parquet")
    size = (tmp_path / "a.parquet").stat().st_size
    state = (size, str(s3fs.S3FileSystem().info("scored/a.parquet")["ETag"]))
    run = Run(InputFile("s3://scored/a.parquet", (2000,) * 20, size, state=state), 0, 20)
    store.reset()
    found = pa.Table.from_batches(_batches(run, ["x"], rows=1000))
    assert found.column("x").to_pylist() == table.column("x").to_pylist()
    needed = 40_000 * 8
    assert needed < store.sent < 1.5 * needed + (64 << 10) < size / 10
    assert store.requests["GET"] <= 20 + 2 and store.requests["HEAD"] <= 2


def test_a_file_that_is_shorter_or_gone_is_told(store) -> None:
    from sparkdl.storage.ranges import RangeFile

    fs = s3fs.S3FileSystem()
    fs.mkdir("short")
    fs.pipe_file("short/a", b"0123456789")
    file = RangeFile("s3://short/a", 20)
    assert file.seek(-15, 2) == 5 and file.read(3) == b"567" and file.tell() == 8
    with pytest.raises(OSError, match="short/a has 10 bytes and no more, where 20 were expected"):
        file.read()
    fs.rm_file("short/a")
    with pytest.raises(FileNotFoundError):
        RangeFile("s3://short/a").read(1)
    assert storage.listing("s3://short") == []
