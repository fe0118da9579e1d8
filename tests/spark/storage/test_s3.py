"""Prepared datasets on S3: moto's server on loopback; only the environment tells where it is."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from sparkdl import DatasetError, ModelError, PrepareConfig, ReaderConfig, SchemaError, Split, storage
from sparkdl.data.feed.feed import Feed
from sparkdl.features import Categorical
from sparkdl.spark.errors import errors_from_workers


def client():
    import boto3

    return boto3.client("s3")


@pytest.fixture(scope="module")
def s3_spark(s3_environment, spark):
    """The session; its Python workers take their environment from the session's, as executors from their host's."""
    environment = spark.sparkContext.environment
    environment.update(s3_environment)
    yield spark
    for key in s3_environment:
        del environment[key]


@pytest.fixture(scope="module")
def rows(s3_spark, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("rows") / "files")
    s3_spark.range(300).selectExpr("id", "float(id) as x", "int(id % 2) as y").write.parquet(path)
    return s3_spark.read.parquet(path)


def config(path, **options):
    split = Split.fraction({"train": 0.8, "test": 0.2}, key="id")
    return PrepareConfig(path=path, features=["x"], label=Categorical("y"), keep=["id"], splits=split, **options)


@pytest.mark.parametrize("scheme", ["s3", pytest.param("s3a", marks=pytest.mark.soak)])
def test_a_dataset_on_s3_is_prepared_found_replaced_and_swept(s3_spark, rows, bucket, scheme) -> None:
    path = f"{scheme}://{bucket}/people/data"
    first = sparkdl.prepare(rows, config(path))
    assert sparkdl.open_dataset(path) == first
    read = [row for name in first.splits for row in sparkdl.read_prepared(s3_spark, path, name).collect()]
    assert sorted((row.id, row.x, row.y) for row in read) == [(i, float(i), i % 2) for i in range(300)]

    before = _objects(bucket)
    assert sparkdl.prepare(rows, config(path)) == first and _objects(bucket) == before

    for seed in (1, 2):
        last = sparkdl.prepare(rows, config(path, seed=seed))
    assert last == sparkdl.open_dataset(path)
    assert storage.listing(path) == sorted(["dataset.json", last.generation, last.previous])
    assert first.generation not in (last.generation, last.previous)


def test_a_rank_reads_from_s3_what_was_stored(rows, bucket) -> None:
    ds = sparkdl.prepare(rows, config(f"s3://{bucket}/data"))
    train = ds.split("train")
    plan = {"rank": 0, "world_size": 1, "global_batch_size": 32, "seed": 0}
    for reader in (ReaderConfig(in_memory=True), ReaderConfig(in_memory=False)):
        feed = Feed(ds, train, **plan, reader=reader)
        assert feed.memory.cache is (not reader.in_memory)
        ids = [np.concatenate([block.arrays[0].reshape(len(block.arrays[0]), -1) for block in feed.blocks([0])])]
        if not reader.in_memory:
            storage.delete(f"s3://{bucket}/data/{ds.parts[0].file.split('/')[0]}/{ds.parts[-1].file.split('/')[1]}")
        # The second epoch comes from memory, or from the local disk.
        ids.append(np.concatenate([block.arrays[0].reshape(len(block.arrays[0]), -1) for block in feed.blocks([0])]))
        assert len(ids[0]) == train.rows and (ids[0] == ids[1]).all()


def test_a_listing_that_is_remembered_does_not_hide_what_another_process_wrote(bucket) -> None:
    file = f"s3://{bucket}/folder/a.json"
    storage.write_atomic(file, b"one")
    assert storage.listing(f"s3://{bucket}/folder") == ["a.json"]
    s3 = client()
    s3.put_object(Bucket=bucket, Key="folder/a.json", Body=b"something longer")
    s3.put_object(Bucket=bucket, Key="folder/b.json", Body=b"")
    assert storage.read_bytes(file) == b"something longer"
    assert storage.listing(f"s3://{bucket}/folder") == ["a.json", "b.json"]
    assert storage.sizes(f"s3://{bucket}/folder") == {"a.json": 16, "b.json": 0}
    s3.delete_object(Bucket=bucket, Key="folder/b.json")
    assert not storage.exists(f"s3://{bucket}/folder/b.json")


def test_a_file_that_is_given_up_leaves_no_object_and_no_upload(bucket) -> None:
    path = f"s3://{bucket}/part.parquet"
    for megabytes in (1, 12):
        fs, inner = storage.filesystem(path)
        handle = fs.open(inner, "wb", block_size=5 << 20)
        handle.write(bytes(megabytes << 20))
        storage.discard(handle, path)
        del handle
    assert _objects(bucket) == {}
    assert "Uploads" not in client().list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?"])
def test_a_folder_whose_name_looks_like_a_pattern_is_deleted_and_no_other(bucket, name) -> None:
    for folder in ("run1", "run", "runs", name, f"{name}2"):
        for file in ("a", "deep/b"):
            storage.write_atomic(f"s3://{bucket}/{folder}/{file}", b"x")
    for _ in range(2):
        storage.delete(f"s3://{bucket}/{name}")
        assert storage.listing(f"s3://{bucket}") == sorted(["run1", "run", "runs", f"{name}2"])
    assert len(_objects(bucket)) == 8
    storage.delete(f"s3://{bucket}/{name}2/a")
    assert len(_objects(bucket)) == 7


def test_a_failed_prepare_leaves_nothing_on_s3(rows, bucket) -> None:
    bad = rows.selectExpr("id", "y", "if(id = 7, null, x) as x")
    with pytest.raises(SchemaError, match="column 'x': null"):
        sparkdl.prepare(bad, config(f"s3://{bucket}/data"))
    # Tasks that still ran when the bad row was told delete their own part.
    limit = time.monotonic() + 20
    while _objects(bucket) and time.monotonic() < limit:
        time.sleep(0.1)
    assert _objects(bucket) == {}
    with pytest.raises(DatasetError, match="no prepared dataset at s3://"):
        sparkdl.open_dataset(f"s3://{bucket}/data")


def test_a_model_is_saved_loaded_and_exported_on_s3(bucket, tmp_path) -> None:
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    path, out = f"s3://{bucket}/models/one", f"s3a://{bucket}/exported"
    sparkdl.save_model(model, path, inputs=["x"])
    assert sorted(_objects(bucket)) == ["models/one/model.keras", "models/one/signature.json"]
    found = sparkdl.load_model(path).predict({"x": [[1.0, 2.0]]})
    assert np.allclose(found, model(np.array([[1.0, 2.0]])), rtol=1e-5, atol=1e-6)
    sparkdl.export_saved_model(path, out)
    for call in (lambda: sparkdl.save_model(model, path, inputs=["x"]), lambda: sparkdl.export_saved_model(path, out)):
        with pytest.raises(ModelError, match="s3a?://.* is not empty"):
            call()
    fs, inner = storage.filesystem(out)
    fs.get(inner, str(tmp_path / "exported"), recursive=True)
    serve = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    (served,) = serve(x=tf.constant([[1.0, 2.0]])).values()
    assert np.allclose(served, found, rtol=1e-5, atol=1e-6)


@pytest.mark.soak
def test_a_model_on_s3_comes_to_an_executor_once(s3_spark, rows, bucket) -> None:
    import keras
    from pyspark import SparkFiles

    model_dir = f"s3://{bucket}/models/double"
    model = keras.Sequential([keras.Input((1,), name="x"), keras.layers.Rescaling(2.0)])
    signature = sparkdl.save_model(model, model_dir, inputs=["x"])
    brought = set()
    for _ in range(2):
        scored = sparkdl.transform(rows.repartition(4), model_dir)
        assert sorted(row.prediction for row in scored.collect()) == [2.0 * i for i in range(300)]
        (folder,) = Path(SparkFiles.getRootDirectory()).glob("sparkdl-model-*")
        assert folder.name == f"sparkdl-model-{signature.content_hash[:16]}"
        assert sorted(file.name for file in folder.iterdir()) == ["lock", "model.keras", "state"]
        brought.add((folder / "model.keras").stat().st_ino)
    assert len(brought) == 1, "whoever comes later takes the copy"
    # Of the same size: only the store can tell.
    content = bytearray(storage.read_bytes(f"{model_dir}/model.keras"))
    content[len(content) // 2] ^= 1
    client().put_object(Bucket=bucket, Key="models/double/model.keras", Body=bytes(content))
    with pytest.raises(ModelError, match="is not the file that its signature.json tells of"), errors_from_workers():
        scored.collect()
    storage.delete(f"{model_dir}/model.keras")
    with pytest.raises(ModelError, match="it has no model.keras"), errors_from_workers():
        sparkdl.transform(rows, model_dir).collect()


def test_parquet_on_s3_is_scored_and_a_killed_commit_is_taken_back(s3_spark, rows, bucket, tmp_path) -> None:
    import keras
    import pyarrow.parquet as pq

    model_dir, out = str(tmp_path / "model"), f"s3a://{bucket}/scored/today"
    model = keras.Sequential([keras.Input((1,), name="x"), keras.layers.Rescaling(2.0)])
    sparkdl.save_model(model, model_dir, inputs=["x"])
    for place, part in enumerate(rows.toPandas().groupby("y")):
        part[1].to_parquet(tmp_path / "part.parquet")
        client().upload_file(str(tmp_path / "part.parquet"), bucket, f"raw/{place}.parquet")
    # What a driver that was killed while it committed leaves behind.
    for name in ("part-00000.parquet", "part-00007.parquet"):
        client().put_object(Bucket=bucket, Key=f"scored/today/{name}", Body=b"old")
    names = json.dumps(["part-00000.parquet", "part-00007.parquet", "part-00008.parquet"])
    client().put_object(Bucket=bucket, Key="scored/today/_committing.json", Body=names.encode())
    assert sparkdl.score_parquet(s3_spark, f"s3://{bucket}/raw", model_dir, out, keep=["id"]) == 300
    before = _objects(bucket)
    written = [key for key in before if key.startswith("scored/")]
    parts = [key for key in written if key.endswith(".parquet")]
    assert sorted(set(written) - set(parts)) == ["scored/today/_SUCCESS", "scored/today/_score.json"]
    scored = []
    for part in parts:
        client().download_file(bucket, part, str(tmp_path / "part.parquet"))
        scored += pq.read_table(tmp_path / "part.parquet").to_pylist()
    assert sorted((row["id"], row["prediction"]) for row in scored) == [(i, 2.0 * i) for i in range(300)]
    assert sparkdl.score_parquet(s3_spark, f"s3://{bucket}/raw", model_dir, out, keep=["id"]) == 300
    assert _objects(bucket) == before, "nothing is left beside it, and nothing is done twice"
    how = {"keep": ["y"], "if_exists": "replace"}
    assert sparkdl.score_parquet(s3_spark, f"s3://{bucket}/raw", model_dir, out, **how) == 300
    after = [key for key in _objects(bucket) if key.startswith("scored/")]
    assert len(after) == len(written) and not set(after) & set(parts)
    client().download_file(bucket, next(key for key in after if "part-" in key), str(tmp_path / "part.parquet"))
    assert pq.read_schema(tmp_path / "part.parquet").names == ["y", "prediction"]


def test_figures_for_tensorboard_lie_on_s3_after_every_epoch(bucket, tmp_path) -> None:
    import tensorflow as tf

    from sparkdl.train.rank.callbacks.tensorboard import TensorBoardFiles
    from sparkdl.train.run.record import Recorded

    recorded = Recorded()
    client().put_object(Bucket=bucket, Key="run/tensorboard/train/events.out.tfevents.1.of-the-users", Body=b"")
    launches = []
    for epochs in ((0, 1), (2, 3)):
        # The first one ends unheard.
        launches.append(TensorBoardFiles(f"s3://{bucket}/run/tensorboard", recorded))
        launches[-1].on_train_begin()
        for epoch in epochs:
            recorded.history.append({"epoch": epoch, "loss": 0.5, "f1": [0.25, 0.75], "val_loss": float("nan")})
            launches[-1].on_epoch_end(epoch)
    ours = [key for key in _objects(bucket) if not key.endswith("of-the-users")]
    assert len(ours) == 2 and len(_objects(bucket)) == 3
    shown = {}
    for key in ours:
        client().download_file(bucket, key, str(tmp_path / "events"))
        for event in tf.compat.v1.train.summary_iterator(str(tmp_path / "events")):
            for value in event.summary.value:
                shown.setdefault((key.split("/")[2], value.tag), []).append(event.step)
    every = [0, 1, 2, 3]
    names = [("train", "epoch_loss"), ("train", "epoch_f1/0"), ("train", "epoch_f1/1"), ("validation", "epoch_loss")]
    assert shown == dict.fromkeys(names, every)
    for files in launches:
        files.on_train_end()


def test_no_secret_enters_the_manifest(rows, bucket) -> None:
    ds = sparkdl.prepare(rows, config(f"s3://{bucket}/data"))
    text = storage.read_bytes(storage.join(ds.path, "dataset.json")).decode()
    assert not any(os.environ[key] in text for key in ("AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"))
    assert Path(ds.source.paths[0].removeprefix("file:")).is_dir()


def _objects(bucket):
    """Key -> time of every object."""
    return {item["Key"]: item["LastModified"] for item in client().list_objects_v2(Bucket=bucket).get("Contents", [])}
