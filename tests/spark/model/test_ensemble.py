"""Several models as one: votes, what must be the same, and a directory like any other."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from groups import local_group
from paths import FIXTURES, python_of
from sparkdl import ConfigError, ModelError
from sparkdl.data.features.numeric import NumericEncoder

pytestmark = pytest.mark.timeout(300)

ROWS = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
CLASSES = ["ant", "bee", "cat"]


def saved(folder, outputs, *, seed, hidden=5, inputs=("x",), **options):
    """A model directory; `outputs`: Dense layers on one hidden layer, of which all models have one of the same name."""
    import keras

    keras.utils.set_random_seed(seed)
    x = keras.Input((4,), name="x")
    inner = keras.layers.Dense(hidden, "tanh", name="hidden", kernel_initializer="random_normal")(x)
    made = [keras.layers.Dense(units, kind, name=name)(3 * inner) for name, units, kind in outputs]
    model = keras.Model(x, made if len(made) > 1 else made[0])
    if loss := options.pop("loss", None):
        model.compile("adam", loss, metrics=options.pop("metrics", None))
    sparkdl.save_model(model, str(folder), inputs=list(inputs), **options)
    return str(folder)


def values(model_dir):
    found = sparkdl.load_model(model_dir).predict({"x": ROWS})
    return found if isinstance(found, dict) else found.astype(np.float64)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def members(tmp_path, kind, units, *, count=3, **options):
    options = {"label": CLASSES[: max(units, 2)], **options}
    return [saved(tmp_path / f"m{n}", [("y", units, kind)], seed=n, hidden=4 + n, **options) for n in range(count)]


def test_the_mean_of_probabilities_is_that_of_logits_too(tmp_path) -> None:
    for kind, units in (("softmax", 3), ("sigmoid", 1), (None, 3), (None, 1)):
        folder = tmp_path / f"{kind}-{units}"
        dirs = members(folder, kind, units, **({"logits": True} if kind is None else {}))
        signature = sparkdl.ensemble(dirs, str(folder / "all"))
        (output,) = signature.outputs
        assert (output.values, output.threshold) == (("logits", 0.0) if kind is None else ("probabilities", 0.5))
        given, made = [values(path) for path in dirs], values(str(folder / "all"))
        if kind is None and units == 3:
            given, made = [softmax(one) for one in given], softmax(made)
        elif kind is None:
            given, made = ([1 / (1 + np.exp(-one)) for one in some] for some in (given, [made]))
            (made,) = made
        np.testing.assert_allclose(made, np.mean(given, axis=0), rtol=1e-5, atol=1e-6)


def test_large_logits_stay_finite(tmp_path) -> None:
    import keras

    from sparkdl.model.ensemble.votes import _mean_of_logits

    far = keras.ops.convert_to_tensor(np.array([[2e4], [-2e4], [0.0]], np.float32))
    near = keras.ops.convert_to_tensor(np.array([[-3e4], [-1e4], [0.0]], np.float32))
    # (1 + 0) / 2 is a logit of 0; the less certain of two certain members determines the mean.
    found = np.asarray(_mean_of_logits([far, near], scalar=True))[:, 0]
    np.testing.assert_allclose(found, [0.0, -1e4 - np.log(2), 0.0], rtol=1e-6, atol=1e-4)


def test_the_majority_chooses_and_ties_go_to_the_smaller_class(spark, tmp_path) -> None:
    df = spark.createDataFrame([(row.tolist(),) for row in ROWS], "x array<float>")
    for kind, units, options in (("softmax", 3, {}), (None, 3, {"logits": True}), (None, 1, {"logits": True})):
        folder = tmp_path / f"{kind}-{units}"
        dirs = members(folder, kind, units, count=4, **options)
        sparkdl.ensemble(dirs, str(folder / "all"), vote="majority")
        codes = np.array([one.argmax(1) if units > 1 else (one[:, 0] > 0) for one in map(values, dirs)], int)
        votes = np.array([np.bincount(column, minlength=max(units, 2)) for column in codes.T])
        tied = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1
        assert tied.any() and not tied.all()
        expected = [CLASSES[code] for code in votes.argmax(axis=1)]  # the first of the largest
        predict = sparkdl.predict_udf(str(folder / "all"), returns="class")
        assert [row[0] for row in df.select(predict("x")).collect()] == expected
    shares = values(str(tmp_path / "softmax-3" / "all"))
    assert {*np.unique(shares)} <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_several_outputs_vote_each_and_probabilities_meet_logits(tmp_path) -> None:
    kinds = {"a": "softmax", "b": None}
    dirs = []
    for name, kind in kinds.items():
        outputs = [("kind", 3, kind), ("size", 1, None)]
        options = {"label": {"kind": CLASSES}, "logits": {"kind": kind is None}}
        dirs.append(saved(tmp_path / name, outputs, seed=len(dirs), **options))
    signature = sparkdl.ensemble(dirs, str(tmp_path / "all"))
    assert [(o.name, o.values) for o in signature.outputs] == [("kind", "probabilities"), ("size", None)]
    one, other, made = (values(path) for path in (*dirs, str(tmp_path / "all")))
    np.testing.assert_allclose(made["kind"], (one["kind"] + softmax(other["kind"])) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made["size"], (one["size"] + other["size"]) / 2, rtol=1e-5)
    with pytest.raises(ConfigError, match="vote='majority' is for classes, and output 'size' has none"):
        sparkdl.ensemble(dirs, str(tmp_path / "other"), vote="majority")


def test_an_ensemble_is_scored_and_exported_like_any_model(spark, tmp_path) -> None:
    import tensorflow as tf

    dirs = members(tmp_path, "softmax", 3)
    path = str(tmp_path / "all")
    sparkdl.ensemble(dirs, path)
    expected = values(path)
    df = spark.createDataFrame([(i, row.tolist()) for i, row in enumerate(ROWS)], "id long, x array<float>")
    df.coalesce(1).write.parquet(str(tmp_path / "in"))
    scored = sparkdl.transform(df, path).orderBy("id").collect()
    np.testing.assert_allclose([row.prediction for row in scored], expected, rtol=1e-5, atol=1e-6)
    sparkdl.score_parquet(spark, str(tmp_path / "in"), path, str(tmp_path / "out"), returns="class")
    found = [row.prediction for row in spark.read.parquet(str(tmp_path / "out")).orderBy("id").collect()]
    assert found == [CLASSES[code] for code in expected.argmax(axis=1)]
    sparkdl.export_saved_model(path, str(tmp_path / "export"))
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    (served,) = serve(x=tf.constant(ROWS)).values()
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-6)


def test_keras_alone_loads_an_ensemble_in_safe_mode(tmp_path) -> None:
    for kind, options in (("softmax", {}), (None, {"logits": True})):
        folder = tmp_path / str(kind)
        dirs = members(folder, kind, 3, **options)
        for vote in ("mean", "majority"):
            sparkdl.ensemble(dirs, str(folder / vote), vote=vote)
    paths = [
        str(path) for path in sorted(tmp_path.glob("*/m*/model.keras")) if path.parent.name in ("mean", "majority")
    ]
    assert len(paths) == 4
    np.save(tmp_path / "rows.npy", ROWS)
    program = (
        "import sys, numpy as np\nsys.modules['sparkdl'] = None\nimport keras\nrows = np.load(sys.argv[1])\n"
        "for path in sys.argv[2:]:\n    model = keras.saving.load_model(path)\n"
        "    np.save(path + '.npy', model.predict(rows, verbose=0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "rows.npy"), *paths], capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    for path in paths:
        np.testing.assert_allclose(np.load(f"{path}.npy"), values(str(Path(path).parent)), rtol=1e-5, atol=1e-6)


def build_model(ds):
    import keras

    age = keras.Input((1,), name="age")
    hidden = keras.layers.Dense(4, "tanh", name="hidden")(age)
    model = keras.Model([age], keras.layers.Dense(1, name="pay")(hidden))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=[keras.metrics.BinaryAccuracy(threshold=0.0, name="right")])
    return model


def test_trained_members_are_evaluated_together(tmp_path) -> None:
    dataset = sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))
    dirs = []
    for seed in (1, 2):
        config = sparkdl.TrainConfig(run_dir=str(tmp_path / f"run-{seed}"), epochs=2, global_batch_size=7, seed=seed)
        dirs.append(sparkdl.fit(build_model, dataset, config, launch=local_group(1)).model_dir)
    dirs.append(dirs[0])
    path = str(tmp_path / "all")
    signature = sparkdl.ensemble(dirs, path)
    assert signature.labels == dataset.label_encoders
    one, two = (sparkdl.evaluate(path, dataset, "train", launch=local_group(n)) for n in (1, 2))
    assert one == pytest.approx(two, rel=1e-5) and set(one) == {"loss", "right"}
    same = str(tmp_path / "same")
    sparkdl.ensemble([dirs[0], dirs[0]], same)
    alone = sparkdl.evaluate(dirs[0], dataset, "train", launch=local_group(1))
    assert sparkdl.evaluate(same, dataset, "train", launch=local_group(1)) == pytest.approx(alone, rel=1e-5)


def test_members_that_do_not_go_together_are_named_with_their_difference(tmp_path) -> None:
    age = NumericEncoder("x", (4,), "standardize", (3.0,) * 4, (2.0,) * 4, (0.0,) * 4, (9.0,) * 4, None)
    first = saved(tmp_path / "first", [("y", 3, "softmax")], seed=1, inputs=[age], label=CLASSES)
    cases = {
        "x.mean": {"inputs": [dataclasses.replace(age, mean=(4.0,) * 4)], "label": CLASSES},
        "labels were": {"inputs": [age]},
        "label.vocabulary": {"inputs": [age], "label": ["ant", "cat", "bee"]},
    }
    for n, (said, options) in enumerate(cases.items()):
        second = saved(tmp_path / f"{n}", [("y", 3, "softmax")], seed=2, **options)
        with pytest.raises(ModelError, match=f"{n} does not go together with .*first: {said}"):
            sparkdl.ensemble([first, second], str(tmp_path / "all"))
    renamed = saved(tmp_path / "renamed", [("z", 3, "softmax")], seed=2, inputs=[age], label=CLASSES)
    with pytest.raises(ModelError, match=r"outputs were \['y'\], are \['z'\]"):
        sparkdl.ensemble([first, renamed], str(tmp_path / "all"))
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["one"], "out"), "model_dirs=.'one'. must be a list of at least two"),
        (("one", "out"), "model_dirs='one' must be a list"),
        ((["one", "two"], "out", "median"), "vote='median' must be one of mean, majority"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        sparkdl.ensemble(*arguments[:2], **({"vote": arguments[2]} if arguments[2:] else {}))


def test_values_without_a_common_meaning_are_refused_and_losses_that_differ_warned_of(tmp_path, caplog) -> None:
    dirs = members(tmp_path, None, 3, count=2)  # nothing tells what their values are
    with pytest.raises(ConfigError, match="the values of output 'y' are unknown: their mean has no meaning"):
        sparkdl.ensemble(dirs, str(tmp_path / "all"))
    sparkdl.ensemble(dirs, str(tmp_path / "all"), vote="majority")
    one = saved(tmp_path / "one", [("y", 1, None)], seed=1, loss="mse")
    two = saved(tmp_path / "two", [("y", 1, None)], seed=2, loss="mae")
    caplog.clear()
    sparkdl.ensemble([one, two], str(tmp_path / "numbers"))
    assert "is not compiled, and cannot be evaluated: the members' losses or metrics differ" in caplog.text


def test_the_line_of_the_docs_makes_an_ensemble(tmp_path, monkeypatch) -> None:
    (line,) = (line for line in python_of("model.md")[0].splitlines() if "ensemble" in line)
    monkeypatch.chdir(tmp_path)
    for n in (1, 2):
        saved(tmp_path / "models" / f"pets-{n}", [("y", 3, "softmax")], seed=n, label=CLASSES)
    exec(line, {"sparkdl": sparkdl})
    np.testing.assert_allclose(values("models/pets-both").sum(axis=1), 1, rtol=1e-5)
