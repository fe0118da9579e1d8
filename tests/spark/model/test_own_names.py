"""Functions and classes of the user's own that bear Keras' names come back as the user's, or not at all."""

import dataclasses
import functools
import sys

import numpy as np
import pytest
from packaging.version import Version

import sparkdl
from sparkdl import ConfigError, ModelError

X = np.array([[1.0], [2.0]], np.float32)
ROWS = {"x": X[:, 0]}

# Each of a name that Keras has, and each does something else.
OWN_MODULE = """
import keras

def gelu(x):
    return 0 * x + 7

def huber(y_true, y_pred):
    return 100 * keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)

def mean_absolute_error(y_true, y_pred):
    return 0 * y_pred[:, 0] + 42

def zeros(shape, dtype=None):
    return keras.ops.ones(shape, dtype) * 3

def l2(w):
    return 1000 * keras.ops.sum(w)

def non_neg(w):
    return -keras.ops.abs(w)

class L1(keras.regularizers.Regularizer):
    def __call__(self, w):
        return 500 * keras.ops.sum(w)

    def get_config(self):
        return {}

class Dense(keras.layers.Layer):
    def call(self, x):
        return 5 * x

class SGD(keras.optimizers.SGD):
    pass

class MeanSquaredError(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return 0 * y_pred[:, 0] + 11

class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.25

    def get_config(self):
        return {}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A module of the user's own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_things_like_keras.py").write_text(OWN_MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import own_things_like_keras

        yield own_things_like_keras
        sys.modules.pop("own_things_like_keras")


def sequential(*layers, **compiled):
    import keras

    model = keras.Sequential([keras.Input((1,)), *layers])
    if compiled:
        model.compile(**compiled)
    return model


def wrapped(keras, layer):
    """A layer within others: time steps, both directions, a model within the model."""
    inner = keras.Sequential([keras.Input((2, 1)), keras.layers.TimeDistributed(layer)])
    cell = keras.layers.Bidirectional(keras.layers.SimpleRNN(1, activation="relu", kernel_initializer="ones"))
    return [keras.layers.RepeatVector(2), inner, cell]


LAYERS = {
    "gelu": [
        lambda keras, own: [keras.layers.Dense(1, activation=own.gelu)],
        lambda keras, own: [keras.layers.Activation(own.gelu)],
        lambda keras, own: wrapped(keras, keras.layers.Dense(1, activation=own.gelu)),
        lambda keras, own: [keras.layers.RepeatVector(2), keras.layers.SimpleRNN(1, activation=own.gelu)],
        # Keras' own of this name in the same model stays Keras'.
        lambda keras, own: [keras.layers.Activation("gelu"), keras.layers.Dense(1, activation=own.gelu)],
        lambda keras, own: [
            keras.layers.Dense(1, activation=own.gelu),
            keras.layers.Activation(keras.activations.gelu),
        ],
    ],
    "Dense": [lambda keras, own: [own.Dense(), keras.layers.Dense(1, kernel_initializer="ones")]],
}


@pytest.mark.parametrize(("name", "make"), [(name, make) for name, all_ in LAYERS.items() for make in all_])
def test_own_layers_and_activations_named_like_keras_come_back_as_the_users(own, tmp_path, name, make) -> None:
    import keras

    model = sequential(*make(keras, own))
    expected = model.predict(X, verbose=0)
    signature = sparkdl.save_model(model, str(tmp_path / "m"), inputs=["x"])
    assert signature.custom_objects == {f"own_things_like_keras>{name}": "own_things_like_keras"}
    for known in ({"custom_objects": {name: getattr(own, name)}}, {"safe_mode": False}):
        assert np.allclose(sparkdl.load_model(str(tmp_path / "m"), **known).predict(ROWS), expected, rtol=1e-6)
    with pytest.raises(ModelError) as raised:
        sparkdl.load_model(str(tmp_path / "m"))
    assert str(raised.value).endswith(
        f"model.keras: the model holds own_things_like_keras>{name} of module own_things_like_keras, which this "
        f"process does not know: give custom_objects={{'{name}': {name}}}, or, if you trust it, safe_mode=False, which "
        "imports it"
    )
    with pytest.raises(ModelError, match=f"own_things_like_keras>{name}"):
        sparkdl.export_saved_model(str(tmp_path / "m"), str(tmp_path / "exported"))


COMPILED = {
    "huber": lambda own: {"loss": own.huber},
    "mean_absolute_error": lambda own: {"loss": "mean_absolute_error", "metrics": [own.mean_absolute_error]},
    "MeanSquaredError": lambda own: {"loss": own.MeanSquaredError()},
    "l2": lambda own: {"loss": "mse", "layer": {"kernel_regularizer": own.l2}},
    "L1": lambda own: {"loss": "mse", "layer": {"kernel_regularizer": own.L1()}},
    "zeros": lambda own: {"loss": "mse", "layer": {"bias_initializer": own.zeros}},
    "non_neg": lambda own: {"loss": "mse", "layer": {"kernel_constraint": own.non_neg}},
    "SGD": lambda own: {"loss": "mse", "optimizer": own.SGD(0.1)},
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_is_compiled_and_named_like_keras_comes_back_as_the_users(own, tmp_path, name) -> None:
    import keras

    if name in ("l2", "non_neg") and Version(keras.__version__) < Version("3.13"):
        pytest.skip("Keras 3.12 takes instances of its own classes alone")
    options = COMPILED[name](own)
    layer = keras.layers.Dense(1, kernel_initializer="ones", **options.pop("layer", {}))
    model = sequential(layer, **{"optimizer": keras.optimizers.SGD(0.1), **options})
    y = np.array([[3.0], [5.0]], np.float32)
    expected = model.evaluate(X, y, verbose=0, return_dict=True)
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=["x"])
    for known in ({"custom_objects": {name: getattr(own, name)}}, {"safe_mode": False}):
        loaded = sparkdl.load_model(str(tmp_path / "m"), **known).keras_model
        assert loaded.evaluate(X, y, verbose=0, return_dict=True) == pytest.approx(expected)
        assert type(loaded.optimizer) is type(model.optimizer)
        assert loaded.layers[0].get_config() == model.layers[0].get_config()
    if name in ("huber", "mean_absolute_error", "MeanSquaredError", "SGD"):  # prediction needs none of these
        loaded = sparkdl.load_model(str(tmp_path / "m"))
        assert not loaded.keras_model.compiled and np.allclose(loaded.predict(ROWS), model.predict(X, verbose=0))
    else:
        with pytest.raises(ModelError, match=f"the model holds own_things_like_keras>{name} of module"):
            sparkdl.load_model(str(tmp_path / "m"))


def test_keras_alone_does_not_take_its_own_for_the_users(own, tmp_path) -> None:
    import keras

    sparkdl.save_model(sequential(keras.layers.Dense(1, activation=own.gelu)), str(tmp_path / "m"), inputs=["x"])
    with pytest.raises((TypeError, ValueError), match="own_things_like_keras>gelu"):
        keras.saving.load_model(str(tmp_path / "m" / "model.keras"))
    given = {"own_things_like_keras>gelu": own.gelu}
    found = keras.saving.load_model(str(tmp_path / "m" / "model.keras"), given)
    assert found.predict(X, verbose=0).tolist() == [[7], [7]]


def test_functions_that_keras_finds_by_their_name_need_nothing(tmp_path) -> None:
    import keras
    import tensorflow as tf

    @keras.saving.register_keras_serializable("own")
    def gelu(x):
        return 0 * x + 7

    functions = [tf.nn.relu, tf.nn.gelu, tf.tanh, tf.nn.elu, keras.ops.relu, keras.activations.gelu, "swish", gelu]
    for place, function in enumerate(functions):
        model = sequential(keras.layers.Dense(1, activation=function))
        signature = sparkdl.save_model(model, str(tmp_path / str(place)), inputs=["x"])
        assert list(signature.custom_objects) == (["own>gelu"] if function is gelu else [])
        found = sparkdl.load_model(str(tmp_path / str(place))).predict(ROWS)
        assert np.allclose(found, model.predict(X, verbose=0), rtol=1e-5)


def test_operations_of_keras_and_tensorflow_need_nothing_and_no_other_function_of_theirs_is_taken(tmp_path) -> None:
    import keras
    import tensorflow as tf

    from sparkdl.model.custom_objects import found_objects

    ops = keras.ops
    # By default `ops.gelu` approximates, and Keras' activation does not: 1.9546 for 1.9545.
    saved = {
        ops.gelu: "keras.src.ops.nn>gelu",
        ops.sin: "sin",
        ops.erf: "erf",
        tf.sin: "sin",
        tf.nn.softmax: "softmax_v2",
        tf.nn.swish: "tensorflow.python.ops.nn_impl>swish",
    }
    for place, (function, name) in enumerate(saved.items()):
        model = sequential(keras.layers.Dense(2, activation=function))
        signature = sparkdl.save_model(model, str(tmp_path / str(place)), inputs=["x"])
        assert signature.custom_objects == {name: function.__module__}
        loaded = sparkdl.load_model(str(tmp_path / str(place)))
        assert loaded.keras_model.layers[0].activation is function
        assert np.allclose(loaded.predict(ROWS), model.predict(X, verbose=0), rtol=1e-5)
    given = {"gelu": scaled(7)}
    own = sparkdl.load_model(str(tmp_path / "0"), custom_objects=given).keras_model.layers[0].activation
    assert own is given["gelu"]
    for function in (keras.utils.get_file, tf.io.read_file, keras.saving.load_model):
        assert found_objects({function.__name__: function.__module__}, None, import_modules=False) == {}


def test_a_registered_class_that_is_not_known_is_not_replaced_by_one_of_keras(own, tmp_path) -> None:
    import keras

    registry = keras.saving.get_custom_objects()
    keras.saving.register_keras_serializable("mine")(own.L1)
    try:
        layer = keras.layers.Dense(1, kernel_initializer="ones", kernel_regularizer=own.L1())
        sparkdl.save_model(sequential(layer), str(tmp_path / "m"), inputs=["x"])
        known = registry.pop("mine>L1")
        with pytest.raises(ModelError, match="the model holds mine>L1 of module .*: import own_things_like_keras"):
            sparkdl.load_model(str(tmp_path / "m"))
        registry["mine>L1"] = known
        assert type(sparkdl.load_model(str(tmp_path / "m")).keras_model.layers[0].kernel_regularizer) is own.L1
    finally:
        registry.pop("mine>L1", None)
        del sys.modules["keras.src.saving.object_registration"].GLOBAL_CUSTOM_NAMES[own.L1]


def scaled(factor):
    def act(x):
        return factor * x

    return act


def test_two_functions_of_one_name_are_refused_before_training_and_equal_ones_are_not(own, tmp_path) -> None:
    import keras

    from sparkdl.model.save import check_savable

    def of_factors(*factors):
        return sequential(*[keras.layers.Activation(scaled(factor)) for factor in factors])

    check_savable(of_factors(2, 2))
    signature = sparkdl.save_model(of_factors(2, 2), str(tmp_path / "same"), inputs=["x"])
    assert signature.custom_objects == {"act": f"{__name__}.scaled.<locals>"}
    found = sparkdl.load_model(str(tmp_path / "same"), custom_objects={"act": scaled(2)}).predict(ROWS)
    assert found.tolist() == [[4], [8]]
    with pytest.raises(ModelError, match="two different objects that are both named 'act'.*register each"):
        check_savable(of_factors(2, 3))
    with pytest.raises(ModelError, match="two different objects"):
        sparkdl.save_model(of_factors(2, 3), str(tmp_path / "m"), inputs=["x"])


def block(factor):
    """A layer of a class of its own, with all kinds of methods."""
    import keras

    class Base(keras.layers.Layer):
        def call(self, x):
            return self.scaled(x) * self.one * self.two

    class Block(Base):
        weights_of = np.ones(2)

        @property
        def one(self):
            return 1.0

        @functools.cached_property
        def two(self):
            return factor

        @staticmethod
        def scaled(x):
            return x * 2

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    return Block()


def test_classes_that_the_same_code_made_are_one(tmp_path) -> None:
    from sparkdl.model.save import check_savable

    check_savable(sequential(block(2.0), block(2.0)))
    with pytest.raises(ModelError, match="two different objects that are both named 'Block'"):
        check_savable(sequential(block(2.0), block(3.0)))


def test_functions_that_call_each_other_are_compared_once(tmp_path) -> None:
    import keras

    from sparkdl.model.save import check_savable

    def made():
        def even(x, n=2):
            return odd(x, n - 1) if n else x

        def odd(x, n):
            return even(x, n - 1)

        return keras.layers.Activation(even)

    check_savable(sequential(made(), made()))


def test_functions_of_one_name_and_two_modules_are_told_apart(own, tmp_path) -> None:
    import keras

    def act(x):
        return 10 * x

    act.__module__ = "another_module"
    model = sequential(keras.layers.Activation(scaled(2)), keras.layers.Activation(act))
    signature = sparkdl.save_model(model, str(tmp_path / "m"), inputs=["x"])
    names = [f"{__name__}>act", "another_module>act"]
    assert sorted(signature.custom_objects) == sorted(names)
    with pytest.raises(ConfigError, match="custom_objects={'act': …} may mean .* or .*; give each by its whole name"):
        sparkdl.load_model(str(tmp_path / "m"), custom_objects={"act": act})
    given = dict(zip(names, (scaled(2), act), strict=True))
    assert sparkdl.load_model(str(tmp_path / "m"), custom_objects=given).predict(ROWS).tolist() == [[20], [40]]


def test_an_unregistered_schedule_is_named_with_the_way_out(own, tmp_path) -> None:
    import keras

    model = sequential(keras.layers.Dense(1), optimizer=keras.optimizers.SGD(own.Cosine()), loss="mse")
    signature = sparkdl.save_model(model, str(tmp_path / "m"), inputs=["x"])
    assert signature.custom_objects == {"Cosine": "own_things_like_keras"}
    given = sparkdl.load_model(str(tmp_path / "m"), custom_objects={"Cosine": own.Cosine}).keras_model
    assert float(given.optimizer.learning_rate) == 0.25
    assert not sparkdl.load_model(str(tmp_path / "m")).keras_model.compiled  # said at WARNING


def test_signatures_of_before_are_read(own, tmp_path) -> None:
    import keras

    from sparkdl.model.custom_objects import found_objects

    signature = sparkdl.save_model(sequential(keras.layers.Dense(1)), str(tmp_path / "m"), inputs=["x"])
    old = dataclasses.replace(signature, custom_objects={"own>Dense": "own_things_like_keras", "act": None})
    found = found_objects(old.custom_objects, {"Dense": own.Dense, "act": scaled(1)}, import_modules=False)
    assert found["own>Dense"] is own.Dense and "Dense" not in found and found["act"](3) == 3
