"""Outputs have names that differ, and are taken for probabilities only where something tells that they are."""

import collections
import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from sparkdl import ConfigError, ModelError
from sparkdl.features import Tensor
from sparkdl.model.signature import Signature, unique_names
from sparkdl.score.worker.predictions import Returns, check_returns, prediction_column, prediction_type

ROWS = {"x": np.array([[3.0, -1.0], [-0.2, 0.4], [0.3, 0.1]], np.float32)}


def dense(units, activation=None, **options):
    """Sums of its inputs in one unit, its inputs as they are in two."""
    import keras

    kernel = {1: "ones", 2: "identity"}.get(units, "glorot_uniform")
    return keras.layers.Dense(units, activation, kernel_initializer=kernel, name="o", **options)


def sequential(*layers, loss=None, **options):
    import keras

    model = keras.Sequential([keras.Input((2,)), *layers])
    if loss is not None:
        model.compile("sgd", loss, **options)
    return model


def saved(model, folder: Path, label=("no", "yes"), **options) -> Signature:
    signature = sparkdl.save_model(model, str(folder), inputs=["x"], label=label and list(label), **options)
    assert Signature.read(str(folder)) == signature
    return signature


def scored(folder: Path, returns: str, k: int = 2) -> list:
    """What scoring gives for ROWS, without Spark."""
    loaded = sparkdl.load_model(str(folder))
    chosen = Returns(returns, k)
    check_returns(loaded.signature, chosen)
    return prediction_column(loaded.predict_batch(loaded.encode(ROWS)), loaded.signature, chosen).to_pylist()


def own_loss(y, p):
    import keras

    return keras.losses.binary_crossentropy(y, p, from_logits=True)


def said(logits):
    def loss(y, p):
        return own_loss(y, p)

    loss.sparkdl_logits = logits
    return loss


def from_logits(name):
    import keras

    return getattr(keras.losses, name)(from_logits=True)


PROBABILITIES, LOGITS, MARGIN, REGRESSION = ("probabilities", 0.5), ("logits", 0.0), ("scores", 0.0), ("scores", 0.5)
UNKNOWN = ("unknown", 0.5)


@pytest.mark.parametrize(
    ("units", "activation", "loss", "told"),
    [
        (1, None, None, UNKNOWN),
        (2, None, None, UNKNOWN),
        (1, "tanh", None, UNKNOWN),
        (1, "sigmoid", None, PROBABILITIES),
        (2, "softmax", None, PROBABILITIES),
        (2, "sigmoid", None, REGRESSION),  # two scores that do not add up to 1
        (1, None, lambda: own_loss, UNKNOWN),
        (2, None, lambda: own_loss, UNKNOWN),
        (1, "sigmoid", lambda: own_loss, PROBABILITIES),
        (1, None, lambda: said(True), LOGITS),
        (2, None, lambda: said(True), LOGITS),
        (1, None, lambda: said(False), PROBABILITIES),
        (1, None, lambda: "binary_crossentropy", PROBABILITIES),
        (1, None, lambda: "crossentropy", PROBABILITIES),
        (1, None, lambda: ["bce"], PROBABILITIES),
        (2, None, lambda: "sparse_categorical_crossentropy", PROBABILITIES),
        (1, None, lambda: from_logits("BinaryCrossentropy"), LOGITS),
        (1, None, lambda: [from_logits("BinaryFocalCrossentropy")], LOGITS),
        (1, None, lambda: {"o": from_logits("BinaryCrossentropy")}, LOGITS),
        (2, None, lambda: from_logits("SparseCategoricalCrossentropy"), LOGITS),
        (1, "sigmoid", lambda: from_logits("BinaryCrossentropy"), UNKNOWN),  # these contradict each other
        # Each unit by itself: their softmax would be no probabilities.
        (2, None, lambda: from_logits("BinaryCrossentropy"), REGRESSION),
        (2, None, lambda: from_logits("BinaryFocalCrossentropy"), REGRESSION),
        (2, None, lambda: "binary_crossentropy", REGRESSION),
        (2, "softmax", lambda: "binary_crossentropy", PROBABILITIES),
        (1, "tanh", lambda: "hinge", MARGIN),
        (2, None, lambda: "categorical_hinge", MARGIN),
        (1, None, lambda: "mse", REGRESSION),
        (1, "sigmoid", lambda: "mse", PROBABILITIES),
    ],
)
def test_loss_and_last_activation_tell_what_the_values_of_a_class_output_are(
    tmp_path, caplog, units, activation, loss, told
) -> None:
    model = sequential(dense(units, activation), loss=loss and loss())
    output = saved(model, tmp_path / "m").outputs[0]
    assert (output.values, output.threshold) == told
    warned = [r for r in caplog.records if r.levelno == logging.WARNING and "nothing tells whether" in r.getMessage()]
    assert len(warned) == (told == UNKNOWN)


def test_a_last_activation_is_found_behind_what_changes_no_value(tmp_path) -> None:
    import keras

    layers = keras.layers
    ends = {
        "softmax": [
            [dense(2), layers.Activation("softmax", dtype="float32"), layers.Activation("linear")],
            [dense(2), layers.Softmax()],
            [layers.Dense(2), layers.Activation("softmax"), layers.Reshape((2, 1)), layers.Flatten()],
            [keras.Sequential([dense(2, "softmax")]), layers.Dropout(0.5)],
        ],
        "unknown": [
            [dense(2, "softmax"), layers.Rescaling(3.0)],
            [dense(2, "softmax"), layers.BatchNormalization()],
            [layers.Reshape((2, 1)), layers.LSTM(2, activation="sigmoid")],
        ],
    }
    for values, stacks in (("probabilities", ends["softmax"]), ("unknown", ends["unknown"])):
        for place, stack in enumerate(stacks):
            assert saved(sequential(*stack), tmp_path / f"{values}{place}").outputs[0].values == values
    x = keras.Input((2,))
    towers = [layers.Dense(2, "softmax")(x), keras.ops.softmax(layers.Dense(2)(x))]
    assert saved(keras.Model(x, layers.Average()(towers)), tmp_path / "mean").outputs[0].values == "probabilities"
    other = layers.Average()([*towers, layers.Dense(2)(x)])
    assert saved(keras.Model(x, other), tmp_path / "other").outputs[0].values == "unknown"


def test_logits_are_said_by_the_caller(tmp_path) -> None:
    saved(sequential(dense(1)), tmp_path / "one", logits=True)
    assert scored(tmp_path / "one", "class") == ["yes", "yes", "yes"]  # 2, 0.2 and 0.4 are above 0
    saved(sequential(dense(2)), tmp_path / "two", logits=True)
    best = [row[0] for row in scored(tmp_path / "two", "top_k")]
    assert [row["class"] for row in best] == ["no", "yes", "no"]
    assert np.allclose([row["probability"] for row in best], 1 / (1 + np.exp([-4, -0.6, -0.2])))
    saved(sequential(dense(1)), tmp_path / "not", logits=False)
    with pytest.raises(ModelError, match="'output_0' gives 2, so its values are not probabilities.*logits=True"):
        scored(tmp_path / "not", "class")
    for model, label, logits, message in (
        (
            sequential(dense(1, "sigmoid")),
            ("no", "yes"),
            True,
            "logits=True, but output .* passes through sigmoid",
        ),
        (sequential(dense(1)), ("no", "yes"), {"p": True}, "logits: 'p' is not an output of the model"),
        (sequential(dense(1)), ("no", "yes"), 1, "logits=1 must be True, False, None, or a dict of these by output"),
        (sequential(dense(1)), None, True, "logits: output 'output_0' has no classes; give label="),
    ):
        with pytest.raises(ConfigError, match=message):
            saved(model, tmp_path / "wrong", label=label, logits=logits)


def test_what_nothing_tells_is_refused_by_name_and_the_rest_is_given(tmp_path) -> None:
    refused = "returns='{}': nothing tells whether the values of output 'output_0' are probabilities or logits"
    saved(sequential(dense(1)), tmp_path / "one")
    assert np.allclose(scored(tmp_path / "one", "raw"), [2, 0.2, 0.4])
    for returns in ("class", "top_k"):
        with pytest.raises(ModelError, match=refused.format(returns)):
            scored(tmp_path / "one", returns)
    saved(sequential(dense(2), loss=own_loss), tmp_path / "two")
    assert scored(tmp_path / "two", "class") == ["no", "yes", "no"]  # the highest one, whatever the values are
    with pytest.raises(ModelError, match=refused.format("top_k")):
        scored(tmp_path / "two", "top_k")
    saved(sequential(dense(1, "tanh"), loss="hinge"), tmp_path / "hinge")
    assert scored(tmp_path / "hinge", "class") == ["yes", "yes", "yes"]
    with pytest.raises(ModelError, match="returns='top_k': the values of output .* are scores without probabilities"):
        scored(tmp_path / "hinge", "top_k")


def test_values_prove_that_they_are_no_probabilities(tmp_path) -> None:
    saved(sequential(dense(2), loss="sparse_categorical_crossentropy"), tmp_path / "two")
    assert scored(tmp_path / "two", "class") == ["no", "yes", "no"]
    with pytest.raises(ModelError, match="'top_k': output 'output_0' gives 3, so its values are not probabilities"):
        scored(tmp_path / "two", "top_k")
    loaded = sparkdl.load_model(str(tmp_path / "two"))
    within = {"output_0": np.array([[0.5, 0.5], [0.3, 0.1]], np.float32)}
    with pytest.raises(ModelError, match="'output_0' gives a row with the sum 0.4, so"):
        prediction_column(within, loaded.signature, Returns("top_k", 1))
    # A row that is null is not looked at.
    missing = np.array([False, True])
    assert prediction_column(within, loaded.signature, Returns("top_k", 1), missing=missing)[1].as_py() is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("units", [2, 300])
def test_probabilities_of_few_digits_are_taken_as_they_are(tmp_path, dtype, units) -> None:
    import keras

    kernel = keras.initializers.RandomNormal(stddev=2.0, seed=1)
    softmax = keras.layers.Dense(units, "softmax", kernel_initializer=kernel, dtype=keras.dtype_policies.get(dtype))
    label = [f"class {place}" for place in range(units)]
    signature = saved(sequential(softmax), tmp_path / "m", label=label)
    loaded = sparkdl.load_model(str(tmp_path / "m"))
    rows = {"x": np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)}
    column = prediction_column(loaded.predict_batch(loaded.encode(rows)), signature, Returns("top_k", 1))
    assert len(column) == 500


def test_a_compiled_model_that_was_loaded_anew_still_tells_its_logits(tmp_path) -> None:
    import keras

    # Keras makes its list of losses when a model is trained; one that was loaded has none yet.
    model = sequential(dense(1), loss=from_logits("BinaryCrossentropy"))
    model.save(tmp_path / "own.keras")
    assert saved(keras.saving.load_model(tmp_path / "own.keras"), tmp_path / "m").outputs[0].values == "logits"


def test_older_signatures_say_what_they_said(tmp_path) -> None:
    signature = saved(sequential(dense(1, "sigmoid")), tmp_path / "m")
    old = signature.to_json()
    assert "values" not in old["outputs"][0]
    assert (
        Signature.from_json(old, path="") == signature and Signature.from_json(old, path="").digest == signature.digest
    )
    for threshold, values in ((0.5, "probabilities"), (0.0, "logits")):
        found = Signature.from_json({**old, "outputs": [{**old["outputs"][0], "threshold": threshold}]}, path="")
        assert found.outputs[0].values == values and found.to_json()["outputs"][0]["threshold"] == threshold
    unknown = dataclasses.replace(signature, outputs=(dataclasses.replace(signature.outputs[0], values="unknown"),))
    assert Signature.from_json(json.loads(json.dumps(unknown.to_json())), path="") == unknown


@pytest.mark.parametrize(
    ("names", "unique"),
    [
        (["score", "score"], ["score", "score_1"]),
        (["a", "b"], ["a", "b"]),
        (["Score", "score", "SCORE"], ["Score", "score_1", "SCORE_2"]),
        (["s", "s", "s_1"], ["s", "s_2", "s_1"]),
        (["s_1", "s", "s", "s"], ["s_1", "s", "s_2", "s_3"]),
    ],
)
def test_names_of_outputs_differ_without_regard_to_case(names, unique) -> None:
    assert unique_names(names) == unique


def test_two_outputs_of_one_layer_both_come_back(tmp_path) -> None:
    import keras
    import tensorflow as tf

    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    head = keras.layers.Dense(1, kernel_initializer="ones", name="score")
    model = keras.Model([a, b], [head(a), head(b)])
    folder, rows = str(tmp_path / "m"), {"a": np.array([1.0, 2.0]), "b": np.array([10.0, 20.0])}
    signature = sparkdl.save_model(model, folder, inputs=["a", "b"])
    assert [output.name for output in signature.outputs] == ["score", "score_1"]
    loaded = sparkdl.load_model(folder)
    expected = {"score": [[1], [2]], "score_1": [[10], [20]]}
    assert {name: value.tolist() for name, value in loaded.predict(rows).items()} == expected
    raw = Returns("raw", 1)
    assert [field.name for field in prediction_type(signature, raw)] == ["score", "score_1"]
    column = prediction_column(loaded.predict_batch(loaded.encode(rows)), signature, raw)
    assert column.to_pylist() == [{"score": 1, "score_1": 10}, {"score": 2, "score_1": 20}]
    sparkdl.export_saved_model(folder, str(tmp_path / "exported"))
    serve = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    found = serve(**{name: tf.constant(value, tf.float32) for name, value in rows.items()})
    assert {name: value.numpy().tolist() for name, value in found.items()} == expected
    # A directory of before, whose signature names both alike, gives both, too.
    path = Path(folder, "signature.json")
    path.write_text(path.read_text().replace("score_1", "score"))
    assert {name: value.tolist() for name, value in sparkdl.load_model(folder).predict(rows).items()} == expected


def test_one_value_for_all_rows_is_no_prediction(tmp_path) -> None:
    import keras

    x = keras.Input((2,), name="x")
    saved(keras.Model(x, keras.ops.sum(x, axis=0, keepdims=True)), tmp_path / "m", label=None)
    with pytest.raises(ModelError, match=r"'sum' is of shape \(1, 2\) for 64 rows, not \(64, 2\)"):
        sparkdl.load_model(str(tmp_path / "m")).predict(ROWS)


def test_layers_see_the_float_of_training_when_they_are_called(tmp_path) -> None:
    import keras
    import tensorflow as tf

    class Rounds(keras.layers.Layer):
        def call(self, x):
            return keras.ops.cast(x, keras.config.floatx())

    keras.config.set_floatx("float64")
    x = keras.Input((), name="x", dtype="float64")
    folder, exported = str(tmp_path / "m"), str(tmp_path / "exported")
    sparkdl.save_model(
        keras.Model(x, Rounds(dtype="float64")(x)), folder, inputs=[Tensor("x", shape=(), dtype="float64")]
    )
    keras.config.set_floatx("float32")
    seconds = np.array([1_600_000_001.0])
    loaded = sparkdl.load_model(folder, custom_objects={"Rounds": Rounds})
    assert loaded.predict({"x": seconds}).tolist() == seconds.tolist()
    sparkdl.export_saved_model(folder, exported, custom_objects={"Rounds": Rounds})
    (found,) = tf.saved_model.load(exported).signatures["serving_default"](x=tf.constant(seconds)).values()
    assert found.numpy().tolist() == seconds.tolist() and keras.config.floatx() == "float32"


def test_outputs_of_every_structure_bear_their_own_names(tmp_path) -> None:
    import keras

    x = keras.Input((2,), name="x")
    one, two = keras.ops.sum(x, axis=1), keras.ops.max(x, axis=1)
    expected = {"one": [2, 0.2, 0.4], "two": [3, 0.4, 0.3]}
    structures = {
        "dict": ({"two": two, "one": one}, {"one": "one", "two": "two"}),
        "case": ({"S": two, "s": one}, {"S": "two", "s_1": "one"}),
        "ordered": (collections.OrderedDict(two=two, one=one), {"one": "one", "two": "two"}),
        "nested": ({"b": [two, one], "a": {"z": one}}, {"a_z": "one", "b_0": "two", "b_1": "one"}),
    }
    for name, (outputs, names) in structures.items():
        saved(keras.Model(x, outputs), tmp_path / name, label=None)
        found = sparkdl.load_model(str(tmp_path / name)).predict(ROWS)
        assert set(found) == set(names)
        assert all(np.allclose(found[key], expected[value]) for key, value in names.items()), name
    # An output that is an input, too, and one that has a column's name.
    model = keras.Model(x, [x, keras.layers.Dense(1, kernel_initializer="ones", name="X")(x)])
    saved(model, tmp_path / "input", label=None)
    first, second = sparkdl.load_model(str(tmp_path / "input")).predict(ROWS).items()
    assert np.allclose(first[1], ROWS["x"]) and np.allclose(second[1][:, 0], expected["one"])
    assert first[0].casefold() != second[0].casefold()


def test_outputs_that_are_no_numbers_are_refused_when_the_model_is_saved(tmp_path) -> None:
    import keras
    import tensorflow as tf

    from sparkdl.model.save import check_savable

    class Made(keras.Model):
        def __init__(self, made):
            super().__init__()
            self.made = made

        def call(self, x):
            return self.made(x)

        def get_config(self):
            return {}

    def made(function):
        model = Made(function)
        model(ROWS["x"])
        model.built = True
        return model

    def save(model, name):
        return sparkdl.save_model(model, str(tmp_path / name), inputs=[Tensor("x", shape=(2,))])

    x = keras.Input((2,), name="x")
    names = keras.layers.StringLookup(vocabulary=["no", "yes"], invert=True, name="name")
    named = keras.Model(x, {"name": names(keras.ops.argmax(x, -1)), "p": keras.layers.Dense(2)(x)})
    strings = "output 'name' is of dtype string, .* leave it out .* give the code that the string is looked up by"
    with pytest.raises(ModelError, match=strings):
        check_savable(named)  # as before training
    for model, message in (
        (named, strings),
        (made(tf.RaggedTensor.from_tensor), "output 'output_0' is a RaggedTensor"),
        (made(tf.sparse.from_dense), "output 'output_0' is a SparseTensor"),
        (made(lambda x: (x, None)), "output 'output_1' is a NoneType"),
        (made(lambda x: {"a": x, "b": 3.0}), "output 'b' is a float"),
        (made(tf.reduce_sum), "output 'output_0' is one value for all rows"),
    ):
        with pytest.raises(ModelError, match=message):
            save(model, "m")
    assert list(tmp_path.iterdir()) == []
    for dtype in ("bool", "int8", "uint16", "float16", "bfloat16", "float64"):
        signature = save(made(lambda x, dtype=dtype: tf.cast(x, dtype)), dtype)
        check_returns(signature, Returns("raw", 1))
        assert prediction_type(signature, Returns("raw", 1))
    for dtype in ("uint64", "complex64"):  # numpy has them, Spark has not
        signature = save(made(lambda x, dtype=dtype: tf.cast(x, dtype)), dtype)
        with pytest.raises(ModelError, match=f"'output_0' is of dtype {dtype}, for which Spark has no type"):
            check_returns(signature, Returns("raw", 1))
