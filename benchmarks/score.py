"""What scoring gives, in rows/s: every way of ours, beside its limits and its peers.

    .venv/bin/python benchmarks/score.py [--repeats 5] [--models mlp cnn small-cnn tabular images]
        [--rows mlp=4000000 …] [--horovod-python PYTHON] [--json FILE]

Prints medians of runs in turns, each after one that warms up, in one session of `local[all cores]`.

- predict_udf, transform: Spark reads Parquet, the rows go nowhere (`noop`); so do those of the peers and of identity.
- score_parquet: Parquet to Parquet, from `list<float>` columns and from a prepared dataset.
- predict_batch_udf: PySpark's own, with a traced function, as in its documentation.
- identity: `mapInArrow` that gives its batches back: what Spark's way to Python and back costs.
- bare: a traced function on numpy arrays that are ready, in batches of 1024, the faster of one process with all cores
  and of one for each core.
- scan, write: pyarrow alone, reading what score_parquet reads, writing what it writes; a thread for each core.
- KerasModel.transform: Horovod's, on few rows, in an environment of its own (see benchmarks/train.py).
- images: PNG files with `on_error="null"`, a null and an undecodable one among them, beside `"raise"` and none.

The limit of score_parquet is 1 / (1/bare + 1/scan + 1/write), of transform 1 / (1/identity + 1/bare).
"""

import argparse
import json
import logging
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

CORES = os.cpu_count() or 1
BATCH = 1024
ROWS = {"mlp": 4_000_000, "cnn": 40_000, "small-cnn": 100_000, "tabular": 2_000_000, "images": 1_000_000}
BAD_LIMIT = 1.05
JOBS = ("cook", "clerk", "smith", "nurse", "pilot", "baker", "guard", "judge")
HOROVOD_ROWS = 2_000


def mlp():
    import keras
    from keras import layers

    hidden = [layers.Dense(256, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((128,), name="x"), *hidden, layers.Dense(10, activation="softmax")])


def cnn():
    """Two blocks of two convolutions, as examples for MNIST have them."""
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((28, 28, 1), name="x")])
    for filters in (32, 64):
        for _ in range(2):
            model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    for layer in (layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10, activation="softmax")):
        model.add(layer)
    return model


def small_cnn():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="x"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def tabular():
    import keras
    from keras import layers

    inputs = {f"n{place}": keras.Input((), name=f"n{place}") for place in range(6)}
    inputs |= {f"c{place}": keras.Input((), name=f"c{place}", dtype="int32") for place in range(3)}
    numbers = [layers.Reshape((1,))(inputs[f"n{place}"]) for place in range(6)]
    words = [layers.Embedding(len(JOBS) + 1, 4)(inputs[f"c{place}"]) for place in range(3)]
    hidden = layers.Dense(128, activation="relu")(layers.Concatenate()([*numbers, *words]))
    hidden = layers.Dense(64, activation="relu")(hidden)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(hidden))


MODELS = {"mlp": mlp, "cnn": cnn, "small-cnn": small_cnn, "tabular": tabular}


def features(name):
    from sparkdl.features import Categorical, Numeric, Tensor

    if name == "tabular":
        return [*(Numeric(f"n{place}") for place in range(6)), *(Categorical(f"c{place}") for place in range(3))]
    return [Tensor("x", shape=(128,) if name == "mlp" else (28, 28, 1))]


def raw_rows(spark, name, rows):
    """The DataFrame of raw rows."""
    width = {"mlp": 128, "cnn": 784, "small-cnn": 784}.get(name)

    def make(batches):
        import numpy as np
        import pyarrow as pa

        for batch in batches:
            ids, rows = batch.column(0), batch.num_rows
            values = np.random.default_rng(int(ids[0].as_py()))
            if width:
                numbers = pa.array(values.random(rows * width, dtype=np.float32))
                columns = [pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * width), numbers)]
            else:
                columns = [pa.array(values.random(rows, dtype=np.float32)) for _ in range(6)]
                columns += [pa.array(JOBS).take(pa.array(values.integers(0, len(JOBS), rows))) for _ in range(3)]
            yield pa.RecordBatch.from_arrays([ids, *columns], [f"_{place}" for place in range(1 + len(columns))])

    tabular = ", ".join([*(f"n{place} float" for place in range(6)), *(f"c{place} string" for place in range(3))])
    schema = "id long, x array<float>" if width else f"id long, {tabular}"
    return spark.range(0, rows, 1, 4 * CORES).mapInArrow(make, schema)


def bare(model_dir, inputs_file, threads):
    """Print the rows/s of the model on arrays that are ready."""
    import keras
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    model = keras.saving.load_model(f"{model_dir}/model.keras", compile=False)
    arrays = dict(np.load(inputs_file))
    one = len(arrays) == 1
    specs = {name: tf.TensorSpec((None, *value.shape[1:]), value.dtype) for name, value in arrays.items()}
    function = tf.function(lambda given: model(given, training=False), autograph=False)
    function = function.get_concrete_function(next(iter(specs.values())) if one else specs)
    rows = len(next(iter(arrays.values())))

    def predict():
        for start in range(0, rows - BATCH + 1, BATCH):
            batch = {name: tf.convert_to_tensor(value[start : start + BATCH]) for name, value in arrays.items()}
            function(next(iter(batch.values())) if one else batch).numpy()

    predict()
    print("READY", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    predict()
    print("SECONDS", time.perf_counter() - began, rows // BATCH * BATCH, flush=True)


def bare_rate(model_dir, inputs_file, processes):
    """Rows/s of so many processes at once, which share the cores."""
    command = [sys.executable, __file__, "--bare", model_dir, inputs_file, str(CORES // processes)]
    env = {**os.environ, "OMP_NUM_THREADS": str(CORES // processes)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    running = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    for process in running:
        while process.stdout.readline() != "READY\n":
            pass
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate()[0].split("SECONDS", 1)[1].split() for process in running]
    return sum(int(rows) for _, rows in told) / max(float(seconds) for seconds, _ in told)


def scan_rate(folder, columns):
    """Rows/s of pyarrow reading these columns, a thread for each core, as many rows at once as score_parquet."""
    import pyarrow.parquet as pq

    paths = sorted(Path(folder).rglob("*.parquet"))

    def read(path):
        file = pq.ParquetFile(path, memory_map=True)
        return sum(batch.num_rows for batch in file.iter_batches(16 * BATCH, columns=columns, use_threads=False))

    began = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        rows = sum(pool.map(read, paths))
    return rows / (time.perf_counter() - began)


def write_rate(scored, folder):
    """Rows/s of pyarrow writing again what score_parquet wrote."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(path, use_threads=False) for path in sorted(Path(scored).glob("*.parquet"))]

    def write(place):
        strings = [name for name in tables[place].column_names if name != "prediction"]
        compression = {"id": "snappy", "prediction.list.element": "none", "prediction": "none"}
        pq.write_table(tables[place], f"{folder}/{place}.parquet", use_dictionary=strings, compression=compression)

    began = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(write, range(len(tables))))
    return sum(map(len, tables)) / (time.perf_counter() - began)


def noop(df):
    df.write.format("noop").mode("overwrite").save()


def batch_udf(name, model_dir, encoders):
    """PySpark's predict_batch_udf of the same model; strings are looked up in plain Python, as it has no encoders."""
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.types import ArrayType, FloatType

    shapes = {e.name: e.shape for e in encoders}
    vocabularies = {
        e.name: {v: i + 1 for i, v in enumerate(e.vocabulary)} for e in encoders if e.to_json()["kind"] == "categorical"
    }
    scales = {e.name: (e.mean, e.std) for e in encoders if e.to_json()["kind"] == "numeric"}

    def make():
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import keras
        import numpy as np
        import tensorflow as tf

        model = keras.saving.load_model(f"{model_dir}/model.keras", compile=False)
        function = tf.function(lambda given: model(given, training=False), autograph=False, reduce_retracing=True)

        def predict(*columns):
            values = {}
            for (column, shape), given in zip(shapes.items(), columns, strict=True):
                if column in vocabularies:
                    values[column] = np.array([vocabularies[column].get(v, 0) for v in given], np.int32)
                elif column in scales:
                    values[column] = ((given - scales[column][0]) / scales[column][1]).astype(np.float32)
                else:
                    values[column] = given.reshape(-1, *shape)
            return function(next(iter(values.values())) if len(values) == 1 else values).numpy()

        return predict

    shapes_told = None if name == "tabular" else [[math.prod(shape)] for shape in shapes.values()]
    return predict_batch_udf(
        make, return_type=ArrayType(FloatType()), batch_size=BATCH, input_tensor_shapes=shapes_told
    )


def horovod_rate(python, folder):
    """Rows/s of Horovod's KerasModel.transform on a few rows."""
    command = [python, str(Path(__file__).parent / "keras_model.py"), tempfile.mkdtemp(dir=folder), str(HOROVOD_ROWS)]
    env = {**os.environ, "PYSPARK_PYTHON": python, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return HOROVOD_ROWS / float(done.stdout.split("SECONDS", 1)[1])


def rates_of(spark, name, rows, folder, repeats):
    """Rows/s of every contender, `repeats` times, in turns."""
    import numpy as np
    import pyarrow.parquet as pq

    import sparkdl

    raw, prepared, scored, written = (f"{folder}/{name}-{what}" for what in ("raw", "prepared", "scored", "written"))
    model_dir, inputs_file = f"{folder}/{name}-model", f"{folder}/{name}.npz"
    raw_rows(spark, name, rows).write.parquet(raw)
    os.makedirs(written)
    df = spark.read.parquet(raw)
    config = sparkdl.PrepareConfig(path=prepared, features=features(name), keep=["id"])
    encoders = sparkdl.prepare(df, config).encoders
    sparkdl.save_model(MODELS[name](), model_dir, inputs=encoders)
    inputs = [encoder.name for encoder in encoders]
    first = pq.ParquetFile(min(Path(raw).glob("*.parquet"))).read_row_group(0).slice(0, 200 * BATCH)
    np.savez(inputs_file, **sparkdl.load_model(model_dir).encode({n: first.column(n) for n in inputs}))
    predict, peer = sparkdl.predict_udf(model_dir), batch_udf(name, model_dir, encoders)

    def score(source):
        shutil.rmtree(scored, ignore_errors=True)
        sparkdl.score_parquet(spark, source, model_dir, scored, keep=["id"])

    def rate(action):
        def run():
            began = time.perf_counter()
            action()
            return rows / (time.perf_counter() - began)

        return run

    contenders = {
        "bare": lambda: max(bare_rate(model_dir, inputs_file, count) for count in (1, CORES)),
        "identity": rate(lambda: noop(df.mapInArrow(lambda batches: batches, df.schema))),
        "transform": rate(lambda: noop(sparkdl.transform(df, model_dir))),
        "predict_udf": rate(lambda: noop(df.withColumn("p", predict()))),
        "predict_batch_udf": rate(lambda: noop(df.withColumn("p", peer(*inputs)))),
        "scan": lambda: scan_rate(raw, ["id", *inputs]),
        "score_parquet": rate(lambda: score(raw)),
        "scan, prepared": lambda: scan_rate(prepared, ["__record__", "id"]),
        "score_parquet, prepared": rate(lambda: score(prepared)),
        "write": lambda: write_rate(scored, written),
    }
    for run in contenders.values():
        run()
    found = {contender: [] for contender in contenders}
    for _ in range(repeats):
        for contender, run in contenders.items():
            found[contender].append(run())
    return found


def png(pixel):
    import io

    from PIL import Image

    content = io.BytesIO()
    Image.new("L", (4, 4), pixel).save(content, "PNG")
    return content.getvalue()


def image_rates(spark, rows, folder, repeats):
    """Rows/s over PNG files, good ones and with two bad rows, in turns."""
    import keras
    from pyspark.sql import functions as F

    import sparkdl
    from sparkdl.features import Image

    inputs = keras.Input((4, 4, 1), name="face", dtype="uint8")
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1.0)(inputs))
    model_dir = f"{folder}/images-model"
    sparkdl.save_model(keras.Model(inputs, mean), model_dir, inputs=[Image("face", height=4, width=4, channels=1)])
    faces = spark.createDataFrame([(pixel, png(pixel)) for pixel in range(256)], "pixel long, face binary")
    good = spark.range(0, rows, 1, 4 * CORES).withColumn("pixel", F.col("id") % 256).join(F.broadcast(faces), "pixel")
    bad = f"CASE id WHEN {rows // 8} THEN null WHEN {rows // 2} THEN substring(face, 1, 45) ELSE face END"
    good.write.parquet(f"{folder}/images-good")
    good.withColumn("face", F.expr(bad)).write.parquet(f"{folder}/images-bad")

    def run(which, on_error):
        df = spark.read.parquet(f"{folder}/images-{which}")
        began = time.perf_counter()
        noop(sparkdl.transform(df, model_dir, on_error=on_error))
        return rows / (time.perf_counter() - began)

    run("good", "raise")
    found = {"raise, no bad rows": [], "null, two bad rows": []}
    for _ in range(repeats):
        found["raise, no bad rows"].append(run("good", "raise"))
        found["null, two bad rows"].append(run("bad", "null"))
    return found


def ratios(name, found):
    """Ratios beside their limits, medians of those of each turn: {what: (ratio, the least it should be)}."""

    def median(formula):
        turns = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
        return statistics.median(formula(turn) for turn in turns)

    def together(*rates):
        return 1 / sum(1 / rate for rate in rates)

    if name == "images":
        return {"time with bad rows": (median(lambda r: r["raise, no bad rows"] / r["null, two bad rows"]), BAD_LIMIT)}
    if name == "cnn":
        ways = ("transform", "predict_udf", "score_parquet", "score_parquet, prepared")
        return {f"{way} / bare": (median(lambda r, way=way: r[way] / r["bare"]), 0.9) for way in ways}
    kinds = {"score_parquet": "scan", "score_parquet, prepared": "scan, prepared"}
    result = {
        f"{way} / limit": (median(lambda r, w=way, s=scan: r[w] / together(r["bare"], r[s], r["write"])), 0.85)
        for way, scan in kinds.items()
    }
    least = {"transform": 1.5, "predict_udf": 1.15}
    result["transform / limit"] = (median(lambda r: r["transform"] / together(r["bare"], r["identity"])), 0.85)
    for way, number in least.items():
        result[f"{way} / predict_batch_udf"] = (median(lambda r, w=way: r[w] / r["predict_batch_udf"]), number)
    return result


def session():
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(f"local[{CORES}]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.ui.showConsoleProgress", "false").config("spark.log.level", "ERROR")
    return builder.config("spark.driver.memory", "4g").getOrCreate()


def main():
    if sys.argv[1:2] == ["--bare"]:
        return bare(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rows", nargs="+", default=[], metavar="MODEL=ROWS")
    parser.add_argument("--horovod-python", help="the Python of Horovod's environment")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = ROWS | {name: int(count) for name, count in (text.split("=") for text in options.rows)}
    told = {}
    with tempfile.TemporaryDirectory(prefix="sparkdl-score-") as folder:
        for name in options.models:
            spark = session()
            if name == "images":
                found = image_rates(spark, rows[name], folder, options.repeats)
            else:
                found = rates_of(spark, name, rows[name], folder, options.repeats)
            spark.stop()
            print(f"{name}, {rows[name]:,} rows")
            for contender, values in found.items():
                line = f"  {contender:<28}{statistics.median(values):>12,.0f} rows/s"
                print(f"{line}   ({min(values):,.0f} to {max(values):,.0f})")
            told[name] = ratios(name, found)
            for what, (ratio, limit) in told[name].items():
                word = "at most" if name == "images" else "at least"
                print(f"  {what:<40}{ratio:>8.3f}   ({word} {limit})", flush=True)
            if name == "mlp" and options.horovod_python:
                horovod = horovod_rate(options.horovod_python, folder)
                told[name]["transform / KerasModel"] = statistics.median(found["transform"]) / horovod, 500
                print(f"  {'KerasModel.transform':<28}{horovod:>12,.0f} rows/s")
                print(
                    f"  transform / KerasModel {statistics.median(found['transform']) / horovod:,.0f}   (at least 500)"
                )
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    return None


if __name__ == "__main__":
    main()
