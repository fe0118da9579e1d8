"""Only an output that learned a label gives its classes, and they part where the model learned them to."""

import logging

import numpy as np
import pytest

import sparkdl
from sparkdl import ConfigError, ModelError
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.model.signature import Signature
from sparkdl.score.worker.predictions import Returns, check_returns, prediction_column

ROWS = {"x": np.array([[3.0, -1.0], [-0.2, 0.4]], np.float32)}
PETS = ("cat", "dog")
PET = CategoricalEncoder("pet", PETS, True)
SCCE, MSE, HINGE = "sparse_categorical_crossentropy", "mse", "hinge"


def two_outputs(loss=None, names=("head", "aux"), units=2, form=dict):
    """A classifier with an output beside it that has as many units as there are classes."""
    import keras

    x = keras.Input((2,), name="x")
    head = keras.layers.Dense(2, "softmax", kernel_initializer="identity", name=names[0])(x)
    aux = keras.layers.Dense(units, kernel_initializer="ones", name=names[1])(x)
    outputs = dict(zip(names, (head, aux), strict=True)) if form is dict else [head, aux]
    model = keras.Model(x, outputs)
    if loss is not None:
        model.compile("sgd", loss)
    return model


def own_loss(y, p):
    return y[:, 0] - p[:, 0]


def classes(signature: Signature) -> list[str]:
    return sorted(output.name for output in signature.outputs if output.classes is not None)


def by_fit(model, folder) -> Signature:
    """What `fit` writes when it has trained the model."""
    from sparkdl.model.save import write_model

    encoder = TensorEncoder("x", (2,), (2,), np.dtype("float32"))
    return write_model(model, str(folder), encoders=[encoder], label_encoders=[PET], raw_types={})


def by_save_model(model, folder, label=PET, **options) -> Signature:
    return sparkdl.save_model(model, str(folder), inputs=["x"], label=label, **options)


@pytest.mark.parametrize(
    ("loss", "options", "trained", "wrapped"),
    [
        ({"head": SCCE}, {}, ["head"], ["head"]),
        ({"head": SCCE, "aux": None}, {}, ["head"], ["head"]),
        ([None, SCCE], {"form": list}, ["aux"], ["aux"]),
        ([SCCE, None], {"form": list}, ["head"], ["head"]),
        ({"head": SCCE, "aux": MSE}, {}, ["head"], ["head"]),
        ({"head": own_loss}, {}, ["head"], ["head"]),
        # What `fit` trains learns the label; elsewhere this may be what an autoencoder gives back.
        ({"aux": MSE}, {}, ["aux"], []),
        ({"head": own_loss, "aux": MSE}, {}, [], []),
        # Each may have classes of its own.
        ({"head": SCCE, "aux": SCCE}, {}, [], []),
        (SCCE, {}, [], []),
        ({"head": SCCE, "aux": "binary_crossentropy"}, {"units": 3}, ["head"], ["head"]),
        (None, {}, [], []),
        (None, {"names": ("pet", "aux")}, ["pet"], ["pet"]),
        ({"aux": SCCE}, {"names": ("pet", "aux")}, ["pet"], ["pet"]),
    ],
)
def test_of_several_outputs_the_one_that_learned_the_label_has_its_classes(
    tmp_path, loss, options, trained, wrapped
) -> None:
    assert classes(by_fit(two_outputs(loss, **options), tmp_path / "fit")) == trained
    assert classes(by_save_model(two_outputs(loss, **options), tmp_path / "save")) == wrapped


def test_the_single_output_has_the_classes_whatever_its_name(tmp_path) -> None:
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    assert by_save_model(model, tmp_path / "m").outputs[0].classes == PETS
    assert by_fit(model, tmp_path / "fit").outputs[0].classes == PETS


def test_classes_that_nothing_tells_are_said_at_once_and_refused_by_name(tmp_path, caplog) -> None:
    by_save_model(two_outputs(), tmp_path / "none")
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "which of the outputs 'aux', 'head' gives the classes of label 'pet'" in warning and "label={" in warning
    signature = by_save_model(two_outputs({"head": SCCE}), tmp_path / "one")
    with pytest.raises(ModelError, match=r"'top_k': output 'aux' has no classes: neither its .*\('head' did\); use"):
        check_returns(signature, Returns("top_k", 1))
    check_returns(signature, Returns("class", 1))
    with pytest.raises(ModelError, match=r"'class': output 'aux' .*\(no output's does\)"):
        check_returns(Signature.read(str(tmp_path / "none")), Returns("class", 1))
    with pytest.raises(ModelError, match=r"output 'aux' .*\(no output's does\).*label={'aux': …}"):
        check_returns(Signature.read(str(tmp_path / "none")), Returns("top_k", 1))
    check_returns(signature, Returns("raw", 1))


def test_the_caller_says_which_output_gives_which_classes(tmp_path) -> None:
    signature = by_save_model(two_outputs(), tmp_path / "m", {"head": ["cat", "dog"], "aux": ["no", "yes"]})
    loaded = sparkdl.load_model(str(tmp_path / "m"))
    column = prediction_column(loaded.predict_batch(loaded.encode(ROWS)), signature, Returns("class", 1))
    assert column.to_pylist() == [{"aux": "no", "head": "cat"}, {"aux": "no", "head": "dog"}]
    # What is said is all: no loss tells more.
    assert classes(by_save_model(two_outputs({"head": SCCE}), tmp_path / "aux", {"aux": PET})) == ["aux"]
    both = by_save_model(two_outputs(), tmp_path / "both", {"aux": PET, "head": PET})
    assert classes(both) == ["aux", "head"] and both.labels == (PET,)
    for label, message in (
        ({"haed": PET}, "label: 'haed' is not an output of the model; did you mean 'head'"),
        ({"head": ["a", "b", "c"]}, r"label: output 'head' has rows of shape \(2,\), which are not one value for each"),
        ({"head": NumericEncoder("x", (), "none", 0.0, 1.0, 0.0, 1.0, None)}, "label: output 'head' has rows"),
        ({"head": []}, "must be .* at least two classes"),
        ({}, "label={} names no output"),
    ):
        with pytest.raises(ConfigError, match=message):
            by_save_model(two_outputs(), tmp_path / "wrong", label)


def one_unit(last, loss):
    import keras

    layers = [last] if isinstance(last, keras.layers.Layer) else [keras.layers.Dense(1, last, name="o")]
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile("sgd", loss)
    return model


def recurrent(kind):
    import keras

    return keras.Sequential([keras.layers.Reshape((2, 1)), getattr(keras.layers, kind)(1)])


UNKNOWN = ("unknown", 0.5)


@pytest.mark.parametrize(
    ("last", "loss", "trained", "wrapped"),
    [
        *[(last, loss, ("scores", 0.5), UNKNOWN) for last in ("tanh", "softsign") for loss in (MSE, "mae", "huber")],
        (lambda: recurrent("LSTM"), MSE, ("scores", 0.5), UNKNOWN),
        (lambda: recurrent("GRU"), MSE, ("scores", 0.5), UNKNOWN),
        # Between 0 and 1, or on both sides of it: the codes 0 and 1.
        *[(last, MSE, ("scores", 0.5), ("scores", 0.5)) for last in (None, "relu", "hard_sigmoid", "softplus")],
        # The sign tells, unless there is but one.
        *[(last, HINGE, ("scores", 0.0), ("scores", 0.0)) for last in (None, "tanh", "softsign")],
        *[(last, HINGE, UNKNOWN, UNKNOWN) for last in ("hard_sigmoid", "softplus")],
    ],
)
def test_two_classes_part_where_the_model_learned_them_to(tmp_path, last, loss, trained, wrapped) -> None:
    for make, told in ((by_fit, trained), (by_save_model, wrapped)):
        model = one_unit(last() if callable(last) else last, loss)
        (output,) = make(model, tmp_path / make.__name__).outputs
        assert (output.values, output.threshold) == told


def test_a_model_that_learned_minus_one_and_one_says_its_threshold(tmp_path) -> None:
    import keras

    model = one_unit(keras.layers.Dense(1, "tanh", kernel_initializer="ones"), MSE)
    refused = by_save_model(model, tmp_path / "refused")
    with pytest.raises(ModelError, match="it ends in a tanh that may have learned -1 and 1.*threshold=0.0"):
        check_returns(refused, Returns("class", 1))
    found = {}
    for threshold in (0.0, 0.5):
        folder = str(tmp_path / str(threshold))
        signature = by_save_model(model, folder, threshold=threshold)
        assert Signature.read(folder) == signature
        check_returns(signature, Returns("class", 1))
        loaded = sparkdl.load_model(folder)
        column = prediction_column(loaded.predict_batch(loaded.encode(ROWS)), signature, Returns("class", 1))
        found[threshold] = column.to_pylist()
        with pytest.raises(ModelError, match="are scores without probabilities"):
            check_returns(signature, Returns("top_k", 1))
    # tanh(2) and tanh(0.2)
    assert found == {0.0: ["dog", "dog"], 0.5: ["dog", "cat"]}


def test_a_threshold_that_means_nothing_is_refused(tmp_path) -> None:
    one, two = one_unit("tanh", MSE), two_outputs({"head": SCCE})
    for model, label, threshold, message in (
        (one, PET, "0", "threshold='0' must be a number"),
        (one, PET, True, "threshold=True must be a number"),
        (one, PET, float("nan"), "threshold=nan must be a number"),
        (one, PET, {"p": 0.0}, "threshold: 'p' is not an output of the model"),
        (one, None, 0.0, "threshold: output '.*' has no classes; give label="),
        (two, PET, {"head": 0.0}, "threshold: output 'head' has a value for each class"),
    ):
        with pytest.raises(ConfigError, match=message):
            by_save_model(model, tmp_path / "wrong", label, threshold=threshold)
