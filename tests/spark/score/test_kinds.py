"""All kinds of inputs and outputs, scored every way, are what Keras predicts for the encoded rows."""

import io

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F

import sparkdl
from sparkdl import ConfigError, ModelError, PrepareConfig
from sparkdl.features import Categorical, Image, Numeric, Tensor, Text
from sparkdl.model.save import write_model
from sparkdl.spark.errors import errors_from_workers

ROWS = 41


def close(ours, theirs) -> bool:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return ours.shape == theirs.shape and bool((np.abs(ours - theirs) <= 1e-6 + 1e-5 * np.abs(theirs)).all())


def png(value: int) -> bytes:
    from PIL import Image as Pillow

    content = io.BytesIO()
    Pillow.new("RGB", (3, 2), (value, 255 - value, 7)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def rows(spark):
    """Rows with a column of each kind; some numbers, texts and images are null."""
    table = [
        (
            i,
            None if i % 7 == 3 else i / 7,
            ["cook", "clerk", "smith"][i % 3],
            None if i % 5 == 4 else f"the {i} quick foxes",
            [float(i), -1.5],
            [[i, 1, 2], [3, 4, i]],
            Vectors.sparse(4, [1], [float(i)]) if i % 2 else Vectors.dense(1.0, 2.0, 3.0, float(i)),
            None if i % 9 == 1 else png(i),
            i % 2 == 0,
            ["no", "perhaps", "yes"][i % 3],
        )
        for i in range(ROWS)
    ]
    columns = ("id", "age", "job", "note", "hours", "grid", "vector", "face", "member", "answer")
    return spark.createDataFrame(table, list(columns)).cache()


@pytest.fixture(scope="module")
def dataset(rows, tmp_path_factory):
    features = [
        Numeric("age", fill="indicator"),
        Categorical("job"),
        Text("note", length=3, fill=""),
        "hours",
        Tensor("grid", dtype="int32"),
        "vector",
        Image("face", height=2, width=2, fill=3),
        "member",
    ]
    path = str(tmp_path_factory.mktemp("kinds") / "data")
    return sparkdl.prepare(rows, PrepareConfig(path=path, features=features, label=Categorical("answer")))


def kinds_model(outputs: str):
    import keras

    layers = keras.layers
    shapes = {"age": (2,), "job": (), "note": (3,), "hours": (2,), "grid": (2, 3), "vector": (4,), "face": (2, 2, 3)}
    dtypes = {"job": "int32", "note": "int32", "grid": "int32", "face": "uint8", "member": "bool"}
    inputs = {
        name: keras.Input(shape, name=name, dtype=dtypes.get(name, "float32"))
        for name, shape in {**shapes, "member": ()}.items()
    }
    flat = [
        layers.Reshape((-1,))(layers.Rescaling(0.01)(inputs[name]) if name in ("grid", "face", "member") else value)
        for name, value in inputs.items()
        if name not in ("job", "note")
    ]
    words = layers.Flatten()(layers.Embedding(200, 2)(inputs["note"]))
    joined = layers.Concatenate()([*flat, layers.Embedding(9, 2)(inputs["job"]), words])
    made = {
        "one": layers.Dense(1, activation="sigmoid", name="one")(joined),
        "classes": layers.Dense(3, activation="softmax", name="classes")(joined),
        "matrix": layers.Reshape((2, 3), name="matrix")(layers.Dense(6)(joined)),
        "cube": layers.Reshape((2, 1, 2), name="cube")(layers.Dense(4)(joined)),
        "whole": layers.Lambda(lambda x: x, name="whole")(inputs["grid"]) if outputs == "lambda" else None,
    }
    if outputs == "all":
        return keras.Model(inputs, {name: made[name] for name in ("one", "classes", "matrix", "cube")})
    return keras.Model(inputs, made["whole" if outputs == "lambda" else outputs])


def saved(outputs: str, dataset, folder) -> str:
    write_model(
        kinds_model(outputs),
        str(folder / outputs),
        encoders=dataset.encoders,
        label_encoders=dataset.label_encoders,
        raw_types={name: dataset.raw_types[name] for name in dataset.features},
    )
    return str(folder / outputs)


@pytest.fixture(scope="module")
def models(dataset, tmp_path_factory):
    """The model directories by their outputs."""
    folder = tmp_path_factory.mktemp("models")
    return {outputs: saved(outputs, dataset, folder) for outputs in ("all", "one", "classes", "matrix", "lambda")}


def keras_predictions(model_dir: str, rows, *, safe_mode: bool = True) -> dict[str, np.ndarray]:
    """What `keras.Model.predict` gives for the encoded rows, by output, in the order of their ids."""
    loaded = sparkdl.load_model(model_dir, safe_mode=safe_mode)
    names = loaded.signature.input_names
    raw = {row.id: row for row in rows.collect()}
    columns = {
        name: pa.array(
            [raw[i][name].toArray().tolist() if name == "vector" else raw[i][name] for i in range(ROWS)],
        )
        for name in names
    }
    result = loaded.keras_model.predict(loaded.encode(columns), verbose=0)
    return result if isinstance(result, dict) else {loaded.signature.outputs[0].name: result}


WAYS = {
    "transform": lambda df, model_dir, **how: sparkdl.transform(df, model_dir, output_col="p", **how),
    "column": lambda df, model_dir, **how: df.withColumn("p", sparkdl.predict_udf(model_dir, **how)()),
}


@pytest.mark.parametrize(
    ("way", "count", "parts", "batch_size"),
    [
        ("transform", ROWS, 1, 7),
        ("column", ROWS, 3, 1024),
        # Partitions of one row, and empty ones.
        ("transform", 7, 12, 1),
    ],
)
def test_every_kind_is_what_keras_predicts_on_any_partitioning(rows, models, way, count, parts, batch_size) -> None:
    expected = keras_predictions(models["all"], rows)
    some = rows.where(f"id < {count}")
    divided = some.repartitionByRange(parts, "id") if parts > 1 else some.coalesce(1)
    scored = WAYS[way](divided, models["all"], batch_size=batch_size)
    assert scored.columns == [*rows.columns, "p"]
    found = scored.drop("vector", "face").collect()
    assert sorted(row.id for row in found) == list(range(count))
    for row in found:
        assert set(row.p.asDict()) == {"one", "classes", "matrix", "cube"}
        for name, value in row.p.asDict().items():
            theirs = expected[name][row.id]
            assert close(value, theirs[0] if name == "one" else theirs), (name, row.id)


def test_one_output_of_each_rank_is_no_struct(rows, models) -> None:
    types = {"one": "float", "classes": "array<float>", "matrix": "array<array<float>>"}
    for name, type_ in types.items():
        expected = keras_predictions(models[name], rows)[name]
        scored = rows.select("id", sparkdl.predict_udf(models[name])().alias("p"))
        assert dict(scored.dtypes)["p"] == type_
        for row in scored.collect():
            assert close(row.p, expected[row.id][0] if name == "one" else expected[row.id])


def test_sql_filters_and_sees_the_other_columns(spark, rows, models) -> None:
    sparkdl.register_udf(spark, "probability", models["one"])
    sparkdl.register_udf(spark, "answers", models["classes"], returns="class")
    rows.coalesce(1).createOrReplaceTempView("kinds")
    arguments = "age, job, note, hours, grid, vector, face, member"
    expected = keras_predictions(models["one"], rows)["one"].reshape(-1)
    middle = float(np.median(expected)) + 1e-4
    found = spark.sql(
        f"SELECT id, job, answers({arguments}) AS a FROM kinds WHERE probability({arguments}) > {middle}"
    ).collect()
    assert {row.id for row in found} == set(np.flatnonzero(expected > middle).tolist())
    classes = keras_predictions(models["classes"], rows)["classes"]
    assert all(row.a == ["no", "perhaps", "yes"][int(classes[row.id].argmax())] for row in found)


@pytest.mark.parametrize("way", WAYS)
def test_top_k_are_the_best_classes_with_their_probabilities(rows, models, way) -> None:
    expected = keras_predictions(models["classes"], rows)["classes"]
    scored = WAYS[way](rows, models["classes"], returns="top_k", k=2)
    assert dict(scored.dtypes)["p"] == "array<struct<class:string,probability:float>>"
    best = scored.select("id", "p", F.col("p")[0]["class"].alias("best"))
    for row in best.collect():
        order = np.argsort(-expected[row.id])[:2]
        assert [entry["class"] for entry in row.p] == [["no", "perhaps", "yes"][place] for place in order]
        assert close([entry["probability"] for entry in row.p], expected[row.id][order])
        assert row.best == row.p[0]["class"]


@pytest.mark.soak
def test_a_lambda_is_scored_only_if_asked_for(rows, models) -> None:
    with pytest.raises(ModelError, match="it holds Python code: load it with safe_mode=False"), errors_from_workers():
        sparkdl.transform(rows.limit(1), models["lambda"]).collect()
    scored = sparkdl.transform(rows, models["lambda"], safe_mode=False)
    assert all(row.prediction == row.grid for row in scored.select("grid", "prediction").collect())


@pytest.mark.parametrize(
    ("how", "message"),
    [({"k": 0}, "k=0"), ({"on_error": "skip"}, "on_error='skip'"), ({"device": "tpu"}, "device='tpu'")],
)
def test_wrong_options_are_refused(models, how, message) -> None:
    with pytest.raises(ConfigError, match=message):
        sparkdl.predict_udf(models["one"], **how)
