"""Weights of a trained model are taken where they mean the same."""

import dataclasses
import shutil

import pytest

from paths import FIXTURES
from sparkdl.data.dataset import open_dataset
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.errors import ModelError
from sparkdl.model.signature import Output, Signature
from sparkdl.train.checks import initial_model
from sparkdl.train.checks.initial_model import check_initial_model
from sparkdl.train.rank.warm_start import layer_name, variables_difference, warm_start

CITY = CategoricalEncoder("city", ("paris", "rome", "oslo"), False)
PAY = NumericEncoder("pay", (), "standardize", 3.0, 2.0, 0.0, 9.0, None)
LABEL = CategoricalEncoder("label", ("no", "yes"), True)


def refusal(monkeypatch, inputs, *, labels=(LABEL,), trained_on=(LABEL,), target="label", trained_target="label"):
    """Why a model that was trained on (CITY, PAY) is refused for a dataset of other encoders; None if it is not."""
    dataset = dataclasses.replace(
        open_dataset(str(FIXTURES / "dataset-v1")), encoders=tuple(inputs), label_encoders=tuple(labels)
    )
    signature = Signature(
        inputs=(CITY, PAY), raw_types={}, outputs=(Output("y", "float32", (2,), None),), content_hash="",
        floatx="float32", labels=trained_on, target=trained_target,
    )  # fmt: skip
    monkeypatch.setattr(initial_model.Signature, "read", lambda model_dir: signature)
    try:
        check_initial_model("trained", dataset, target)
    except ModelError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((PAY, CITY), "was trained on features ['city', 'pay'], the dataset has ['pay', 'city']"),
        ((CITY,), "was trained on features ['city', 'pay'], the dataset has ['city']"),
        ((dataclasses.replace(CITY, vocabulary=("oslo", "rome", "paris")), PAY),
         "features that are encoded otherwise: city.vocabulary[0] was 'paris', is 'oslo'"),
        ((CITY, dataclasses.replace(PAY, mean=4.0)), "pay.mean was 3.0, is 4.0"),
        ((CITY, dataclasses.replace(PAY, std=1.0)), "pay.std was 2.0, is 1.0"),
        ((CITY, dataclasses.replace(PAY, scale="minmax")), "pay.scale was 'standardize', is 'minmax'"),
    ],
)  # fmt: skip
def test_other_encoders_are_refused_by_name_with_the_way_out(monkeypatch, inputs, message) -> None:
    refused = refusal(monkeypatch, inputs)
    assert message in refused and "\n" not in refused
    assert "set them in build_model: model.set_weights(sparkdl.load_model(…).keras_model.get_weights())" in refused


def test_what_the_values_do_not_depend_on_may_differ(monkeypatch) -> None:
    assert refusal(monkeypatch, (CITY, PAY)) is None
    assert refusal(monkeypatch, (CITY, dataclasses.replace(PAY, low=-5.0, high=50.0, fill=1.0))) is None


def test_the_order_of_classes_counts_where_both_have_a_label(monkeypatch, caplog) -> None:
    other = dataclasses.replace(LABEL, vocabulary=("maybe", "yes"))
    assert "label.vocabulary[0] was 'no', is 'maybe'" in refusal(monkeypatch, (CITY, PAY), labels=(other,))
    assert refusal(monkeypatch, (CITY, PAY), labels=(other,), target="inputs") is None
    assert caplog.text == ""
    assert refusal(monkeypatch, (CITY, PAY), trained_on=()) is None
    assert "nothing compares the order of classes" in caplog.text


KERNEL, BIAS = ("dense/kernel", (2, 2), "float32"), ("dense/bias", (2,), "float32")


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ([BIAS, KERNEL], "variable 0 is 'dense/kernel' there and 'dense/bias' here"),
        ([("other/kernel", (2, 2), "float32"), BIAS], "variable 0 is 'dense/kernel' there and 'other/kernel' here"),
        ([("dense/kernel", (2, 3), "float32"), BIAS], "variable 'dense/kernel' has shape (2, 2) there and (2, 3) here"),
        ([("dense/kernel", (2, 2), "int32"), BIAS], "variable 'dense/kernel' is float32 there and int32 here"),
        ([KERNEL], "there are 2 variables there and 1 here"),
        ([("dense/kernel", (2, 2), "float64"), BIAS], None),
        ([KERNEL, BIAS], None),
    ],
)
def test_variables_must_be_the_same_in_the_same_order(new, message) -> None:
    assert variables_difference([KERNEL, BIAS], new) == message


@pytest.mark.parametrize(
    ("name", "kind", "bare"),
    [
        ("dense_12", "Dense", "dense"),
        ("dense", "Dense", "dense"),
        ("multi_head_attention_1", "MultiHeadAttention", "multi_head_attention"),
        ("conv2d_3", "Conv2D", "conv2d"),
        # The user's numbers tell layers apart.
        ("block_2", "Dense", "block_2"),
    ],
)
def test_only_the_numbers_that_keras_gives_are_left_out(name, kind, bare) -> None:
    assert layer_name(name, kind) == bare


def test_the_committed_model_has_the_encoders_of_the_committed_dataset(tmp_path) -> None:
    folder = shutil.copytree(FIXTURES / "model-v1", tmp_path / "model")
    signature = Signature.read(str(folder))
    dataset = dataclasses.replace(
        open_dataset(str(FIXTURES / "dataset-v1")), encoders=signature.inputs, label_encoders=signature.labels
    )
    check_initial_model(str(folder), dataset, "label")


def test_a_trained_model_with_layers_of_ones_own_is_loaded_with_the_new_models(tmp_path) -> None:
    import keras
    import numpy as np

    import sparkdl

    def made(factor):
        # A class of a function is not importable, and neither is it registered.
        class Scaled(keras.layers.Dense):
            def call(self, inputs):
                return factor * super().call(inputs)

        model = keras.Sequential([keras.Input((1,)), Scaled(1)])
        model.set_weights([np.full((1, 1), factor), np.zeros(1)])
        return model

    sparkdl.save_model(made(3.0), str(tmp_path / "model"), inputs=["x"])
    model = made(1.0)
    warm_start(model, str(tmp_path / "model"))
    assert model.get_weights()[0].item() == 3.0
    plain = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    with pytest.raises(ModelError, match="cannot be loaded with what build_model's model holds: .*Scaled"):
        warm_start(plain, str(tmp_path / "model"))
