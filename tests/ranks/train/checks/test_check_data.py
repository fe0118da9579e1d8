"""What a model does not take of the features, or cannot learn of the labels, is refused in one line, before Keras."""

import logging

import pytest

from sparkdl import ModelError
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.numeric import NumericEncoder

PET = CategoricalEncoder("pet", ("cat", "dog", "emu"), True)
INCOME = CategoricalEncoder("income", ("high", "low"), True)
SIZE = NumericEncoder("size", (), "none", 0.0, 1.0, 0.0, 1.0, None)


def symbol(*shape, dtype="float32"):
    import keras

    return keras.KerasTensor((None, *shape), dtype)


def example(label=(), features=None, labels=None):
    """A batch of one feature of two numbers, unless other features are given, and one label."""
    inputs = symbol(2) if features is None else {name: symbol(*shape) for name, shape in features.items()}
    return inputs, symbol(*label) if labels is None else {name: symbol() for name in labels}


def sequential(*layers, loss="mse", shape=(2,), **options):
    import keras

    model = keras.Sequential([keras.Input(shape, name="i"), *layers], name="m")
    model.compile("sgd", loss, **options)
    return model


def dense(*options):
    import keras

    return keras.layers.Dense(*options, name="out")


def subclassed(units, loss):
    """A model whose outputs are known only when it is called."""
    import keras

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="m")
            self.out = keras.layers.Dense(units)

        def call(self, x):
            return self.out(x)

    model = Own()
    model.compile("sgd", loss)
    return model


def functional(inputs: dict, loss="mse", **options):
    """A model of inputs in a list."""
    import keras

    tensors = [keras.Input(shape, name=name) for name, shape in inputs.items()]
    joined = keras.layers.Concatenate()(tensors) if len(tensors) > 1 else tensors[0]
    model = keras.Model(tensors, dense(1)(joined), name="m")
    model.compile("sgd", loss, **options)
    return model


def built(model, batch, *label_encoders) -> None:
    from sparkdl.train.checks.check_model import build, check_model

    check_model(model)
    build(model, batch, label_encoders)


THREE = {"age": (), "hours": (), "wage": ()}
ONE_INPUT = (
    "has one input, of shape .3,., and the dataset the 3 features 'age', 'hours', 'wage'; give the model an Input"
)


@pytest.mark.parametrize(
    ("make", "batch", "message"),
    [
        (lambda: sequential(dense(1), shape=(3,)), {"features": THREE}, ONE_INPUT),
        (lambda: functional({"x": (3,)}), {"features": THREE}, ONE_INPUT),
        (
            lambda: functional({"age": (1,), "wages": (1,)}),
            {"features": THREE},
            "not features of the dataset: \\['wages'\\], which are \\['age', 'hours', 'wage'\\]. Name each Input after",
        ),
        (lambda: functional({"a": (1,), "b": (1,)}), {}, "has 2 inputs, \\['a', 'b'\\], and the dataset one feature"),
        (
            lambda: sequential(dense(1), shape=(3,)),
            {},
            "the feature has rows of shape .2,., and the input 'i' of model 'm' takes .3,.",
        ),
        (
            lambda: functional({"age": (3,), "wage": (1,)}),
            {"features": THREE},
            "feature 'age' has rows of shape .., and the input 'age' of model 'm' takes .3,.",
        ),
    ],
)
def test_features_that_the_model_does_not_take_are_refused_in_one_line(make, batch, message) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        built(make(), example(**batch), SIZE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "batch", "encoders", "message"),
    [
        (
            lambda: sequential(dense(2)),
            {"labels": ["left", "right"]},
            [],
            "has one output, of shape .2,., and the dataset the 2 labels 'left', 'right'; give the model an output for",
        ),
        (lambda: functional({"x": (2,)}), {"labels": ["left", "right"]}, [], "has one output, of shape .1,."),
        (
            lambda: sequential(dense(3, "softmax"), loss="categorical_crossentropy"),
            {},
            [PET],
            "label 'pet' is one class code for a row, and categorical_crossentropy of output .* of model 'm' wants 3 "
            "values for a row; use sparse_categorical_crossentropy",
        ),
        (lambda: subclassed(3, "categorical_crossentropy"), {}, [PET], "use sparse_categorical_crossentropy"),
        (lambda: sequential(dense(3), loss="categorical_hinge"), {}, [PET], "makes them one-hot .keras.ops.one_hot."),
        (
            lambda: sequential(dense(1, "sigmoid"), loss="categorical_crossentropy"),
            {},
            [INCOME],
            "is one unit, of which categorical_crossentropy learns nothing; use Dense.2, 'softmax'.",
        ),
        (lambda: sequential(dense(1), loss="sparse_categorical_crossentropy"), {}, [INCOME], "is one unit, of which"),
        (
            lambda: sequential(dense(2, "softmax"), loss="sparse_categorical_crossentropy"),
            {},
            [PET],
            "label 'pet' has 3 classes, and output .* gives 2 values; use Dense.3.",
        ),
        (
            lambda: sequential(dense(1, "sigmoid"), loss="binary_crossentropy"),
            {},
            [PET],
            "has one unit, and label 'pet' has 3 classes, and binary_crossentropy tells two classes by one unit; use "
            "Dense.3, 'softmax'. with sparse_categorical_crossentropy$",
        ),
        (lambda: sequential(dense(1, "sigmoid"), loss="crossentropy"), {}, [PET], "binary_crossentropy tells two"),
        (
            lambda: sequential(dense(2), loss="hinge"),
            {},
            [INCOME],
            "has 2 units, and hinge tells two classes by one unit; .*, or Dense.1.$",
        ),
        (
            lambda: sequential(dense(1, "softmax"), loss="mse"),
            {},
            [INCOME],
            "is a softmax of one unit, which is always 1",
        ),
        (
            lambda: sequential(dense(3)),
            {},
            [SIZE],
            "label 'size' has rows of shape .., and output .* gives .3,., which mean_squared_error cannot compare",
        ),
        (
            lambda: sequential(dense(1)),
            {"label": (2,)},
            [],
            "the target has rows of shape .2,., and output .* gives ..",
        ),
    ],
)
def test_labels_that_the_model_cannot_learn_are_refused_in_one_line(make, batch, encoders, message) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        built(make(), example(**batch), *encoders)
    assert "\n" not in str(raised.value)


def test_what_keras_trains_rightly_is_taken(caplog) -> None:
    import keras

    built(functional({"age": (1,), "wage": (1,)}), example(features=THREE), SIZE)  # a part of the features
    built(functional({"age": (1,)}), example(features=THREE), SIZE)
    built(sequential(dense(1, "sigmoid"), loss="binary_crossentropy"), example(), INCOME)
    built(sequential(dense(1, "tanh"), loss="hinge"), example(), INCOME)
    built(sequential(dense(3, "softmax"), loss="crossentropy", metrics=["accuracy"]), example(), PET)
    built(sequential(dense(2), loss="categorical_crossentropy"), example(label=(2,)))  # one-hot already
    built(sequential(dense(2), loss=keras.losses.CategoricalCrossentropy(from_logits=True)), example(label=(2,)))
    built(sequential(dense(2)), example(label=(2,)))
    built(sequential(dense(2, "sigmoid"), loss="binary_crossentropy"), example(label=(2,)))  # two labels in an array
    built(sequential(dense(1)), example(), PET)  # a regression on the codes
    built(sequential(dense(3), loss=lambda y, p: keras.ops.mean((p - y[:, None]) ** 2, axis=-1)), example(), PET)
    built(subclassed(3, "sparse_categorical_crossentropy"), example(), PET)
    built(sequential(keras.layers.Reshape((2, 1)), loss="mse"), example(label=(2,)))
    two = keras.Input((2,))
    heads = {"left": keras.layers.Dense(1)(two), "right": keras.layers.Dense(1)(two)}
    for outputs in (heads, [dense_named("left")(two), dense_named("right")(two)]):
        model = keras.Model(two, outputs)
        model.compile("sgd", {"left": "mse", "right": "mae"})
        built(model, example(labels=["left", "right"]))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    built(sequential(dense(5, "softmax"), loss="sparse_categorical_crossentropy"), example(), PET)
    assert "label 'pet' has 3 classes and output" in caplog.text


def dense_named(name):
    import keras

    return keras.layers.Dense(1, name=name)
