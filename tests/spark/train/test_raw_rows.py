"""A trained model is evaluated on raw rows, with its own encoders."""

import logging
import os

import numpy as np
import pytest

import sparkdl
from groups import local_group
from sparkdl import ConfigError, DatasetError, PrepareConfig, SchemaError, Split, TrainConfig
from sparkdl.features import Categorical, Numeric

pytestmark = pytest.mark.timeout(300)


def build_model(ds):
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    age, job = keras.Input((1,), name="age"), keras.Input((1,), name="job", dtype="int32")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(ds.features["job"].size, 2)(job))
    hidden = keras.layers.Dense(5, "tanh")(keras.layers.Concatenate()([age, embedded]))
    outputs = {"kind": keras.layers.Dense(3, "softmax")(hidden), "size": keras.layers.Dense(1)(hidden)}
    model = keras.Model({"age": age, "job": job}, outputs)
    loss = {"kind": keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"), "size": "mse"}
    model.compile("adam", loss, weighted_metrics={"kind": ["accuracy"], "size": ["mae"]})
    return model


@pytest.fixture(scope="module")
def raw(spark, tmp_path_factory):
    """Rows of files, a third of them to train."""
    jobs, kinds = "array('clerk', 'cook', 'smith')", "array('ant', 'bee', 'cat')"
    df = spark.range(90).selectExpr(
        "id",
        "IF(id % 7 = 0, NULL, 20 + id % 50) AS age",
        f"element_at({jobs}, int(id % 4 % 3) + 1) AS job",
        f"element_at({kinds}, int(id % 5 % 3) + 1) AS kind",
        "id / 30 AS size",
        "1 + id % 4 / 4 AS w",
        "IF(id % 3 = 0, 'train', 'held out') AS split",
    )
    path = str(tmp_path_factory.mktemp("raw") / "rows")
    df.write.parquet(path)
    return spark.read.parquet(path)


@pytest.fixture(scope="module")
def trained(raw, tmp_path_factory):
    """A model of two labels, and its dataset, whose split "test" is the rows that it was not trained on."""
    folder = tmp_path_factory.mktemp("trained")
    features = [Numeric("age", fill="mean"), Categorical("job")]
    rows = raw.selectExpr("*", "IF(split = 'train', 'train', 'test') AS part")
    config = PrepareConfig(
        path=str(folder / "data"),
        features=features,
        label=[Categorical("kind"), Numeric("size")],
        weight="w",
        splits=Split.column("part", ["train", "test"]),
    )
    ds = sparkdl.prepare(rows, config)
    options = TrainConfig(run_dir=str(folder / "run"), epochs=2, global_batch_size=8)
    return sparkdl.fit(build_model, ds, options, launch=local_group(1)).model_dir, ds


def test_raw_rows_give_the_figures_of_their_prepared_rows(raw, trained) -> None:
    model_dir, ds = trained
    held_out = raw.where("split = 'held out'")
    expected = sparkdl.evaluate(model_dir, ds, launch=local_group(1))
    for workers in (1, 3):
        found = sparkdl.evaluate(model_dir, held_out, weight="w", launch=local_group(workers))
        assert found == pytest.approx(expected, rel=1e-9)
    # Labels of other names, whose own names other columns bear, and rows that all count alike.
    renamed = held_out.selectExpr("age", "job", "kind AS animal", "size", "'x' AS kind")
    given = {"label": {"kind": "animal"}, "launch": local_group(2)}
    alike = sparkdl.evaluate(model_dir, renamed, **given)
    assert alike != pytest.approx(expected, rel=1e-3)
    assert alike == pytest.approx(sparkdl.evaluate(model_dir, renamed.repartition(5), **given), rel=1e-9)
    rows = renamed.collect()
    predicted = sparkdl.load_model(model_dir).predict({name: [row[name] for row in rows] for name in ("age", "job")})
    sizes = np.array([row["size"] for row in rows])
    (encoder,) = (label for label in ds.label_encoders if label.name == "size")
    errors = np.abs(predicted["size"][:, 0] - encoder.encode(sizes.tolist()))
    assert alike["size_mae"] == pytest.approx(errors.mean(), rel=1e-6)
    folder = os.path.dirname(model_dir)
    assert [name for name in os.listdir(folder) if ".rows-" in name] == []


def test_the_rows_lie_where_they_are_asked_for_and_only_for_the_time_of_the_call(raw, trained, tmp_path) -> None:
    model_dir, _ = trained
    path = tmp_path / "rows"
    found = sparkdl.evaluate(model_dir, raw, path=str(path), launch=local_group(1))
    assert np.isfinite(found["loss"]) and not path.exists()
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(ConfigError, match="must not exist; it is deleted after the evaluation"):
        sparkdl.evaluate(model_dir, raw, path=str(path), launch=local_group(1))
    assert (path / "mine").exists()


@pytest.mark.parametrize(
    ("change", "options", "kind", "message"),
    [
        (lambda df: df.drop("job"), {}, SchemaError, "column 'job'"),
        (lambda df: df.drop("kind"), {}, SchemaError, "column 'kind'"),
        (lambda df: df, {"label": "kind"}, ConfigError, "label='kind' must be a column for the label, or a dict"),
        (
            lambda df: df,
            {"label": {"kin": "id"}},
            ConfigError,
            "'kin', which is not a label of the model; did you mean",
        ),
        (lambda df: df, {"label": {"kind": 3}}, ConfigError, "label={'kind': 3} must name a column"),
        (lambda df: df, {"split": "test"}, ConfigError, "split='test' is for a dataset"),
        (lambda df: df, {"launch": "here"}, ConfigError, "launch='here' must be a LaunchConfig"),
        (lambda df: df, {"weight": "v"}, SchemaError, "column 'v'"),
        (lambda df: df.limit(0), {}, DatasetError, "no rows"),
        (lambda df: df.selectExpr("age", "job", "size", "'dog' AS kind"), {}, SchemaError, "'dog'"),
        (lambda df: df.selectExpr("age", "job", "size", "string(NULL) AS kind"), {}, SchemaError, "null"),
    ],
)
def test_rows_that_cannot_be_evaluated_are_refused_by_name(raw, trained, change, options, kind, message) -> None:
    options = {"launch": local_group(1), **options}
    with pytest.raises(kind, match=message):
        sparkdl.evaluate(trained[0], change(raw), **options)


def test_options_of_dataframes_are_refused_for_datasets(trained) -> None:
    for name, value in {"label": "kind", "weight": "w", "path": "rows"}.items():
        with pytest.raises(ConfigError, match=f"{name}='{value}' is for a DataFrame; a dataset has its own"):
            sparkdl.evaluate(*trained, launch=local_group(1), **{name: value})


def test_prepare_takes_fitted_encoders_as_they_are(raw, trained, tmp_path, caplog) -> None:
    _, ds = trained
    caplog.set_level(logging.WARNING)
    config = PrepareConfig(path=str(tmp_path / "d"), features=list(ds.encoders), label=list(ds.label_encoders))
    again = sparkdl.prepare(raw, config)
    assert (again.encoders, again.label_encoders) == (ds.encoders, ds.label_encoders)
    assert sparkdl.prepare(raw, config).fingerprint == again.fingerprint
    assert "prepared from the same input: nothing is written" in caplog.text


def test_classes_come_where_an_output_has_them_and_numbers_elsewhere(raw, trained) -> None:
    model_dir, _ = trained
    scored = sparkdl.transform(raw, model_dir, returns="class").select("prediction.*").collect()
    numbers = sparkdl.transform(raw, model_dir).select("prediction.*").collect()
    assert [row.size for row in scored] == pytest.approx([row.size for row in numbers])
    assert [row.kind for row in scored] == [("ant", "bee", "cat")[int(np.argmax(row.kind))] for row in numbers]
