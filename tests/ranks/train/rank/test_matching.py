"""A run starts from the layers of a trained model that match: backbones, encoders, preprocessing layers."""

import shutil

import numpy as np
import pytest

import sparkdl
from groups import local_group
from paths import FIXTURES, python_of
from sparkdl import CheckpointConfig, ModelError, TrainConfig

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def dataset():
    return sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))


def group(workers):
    return local_group(workers, log="errors")


def base(keras, *, bins=True):
    """Layers of the user's names, with a state that they learn from data."""
    age = keras.Input((1,), name="x")
    scaled = keras.layers.Normalization(name="scaled")
    parts = [scaled(age)]
    if bins:
        # Not one_hot, of which Keras 3.12 does not know the shape.
        binned = keras.layers.Discretization(num_bins=4, output_mode="int", name="binned")
        parts.append(keras.ops.cast(binned(age), "float32"))
        binned.adapt(np.arange(40.0))
    scaled.adapt(np.arange(40.0)[:, None])
    known = keras.layers.IntegerLookup(name="known", max_tokens=50)
    known.adapt(np.arange(0, 40, 2))
    parts.append(keras.layers.Flatten()(keras.layers.Embedding(50, 3, name="embedded")(known(age))))
    hidden = keras.layers.Dense(5, "tanh", name="wide")(keras.layers.Concatenate()(parts))
    return keras.Model(age, hidden, name="base")


def first(ds):
    import keras

    age = keras.Input((1,), name="age")
    outputs = keras.layers.Dense(1, "sigmoid", name="pay")(keras.layers.Dense(4, name="top")(base(keras)(age)))
    model = keras.Model([age], outputs)
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    return model


def second(ds):
    """The base as a layer, with another head, and states that are others until they are loaded."""
    import keras

    age, hours = keras.Input((1,), name="age"), keras.Input((2,), name="hours")
    inner = base(keras)
    inner.get_layer("scaled").adapt(np.ones((3, 1)))
    inner.get_layer("binned").adapt(np.arange(100.0))
    inner.get_layer("known").set_vocabulary([7, 8])
    inner.trainable = False
    hidden = keras.layers.Concatenate()([inner(age), keras.layers.Dense(3)(hours)])
    outputs = keras.layers.Dense(2, "softmax", name="top")(hidden)
    model = keras.Model([age, hours], outputs)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


def flat(ds):
    """The layers of the base in the model itself, and the head of the same label."""
    import keras

    inner = base(keras)
    model = keras.Model(inner.inputs, keras.layers.Dense(1, "sigmoid", name="pay")(inner.outputs[0]))
    age = keras.Input((1,), name="age")
    model = keras.Model([age], model(age))
    model.compile("sgd", "binary_crossentropy")
    return model


def config(run_dir, **options):
    base = {"epochs": 2, "global_batch_size": 7, "seed": 3, "checkpoint": CheckpointConfig(every_steps=1)}
    return TrainConfig(run_dir=str(run_dir), **{**base, **options})


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    return sparkdl.fit(first, dataset, config(tmp_path_factory.mktemp("first") / "run"), launch=group(1))


def matching(trained, run_dir, **options):
    return config(run_dir, initial_model=trained.model_dir, initial_weights="matching", **options)


def layer_of(result, *names):
    layer = sparkdl.load_model(result.model_dir).keras_model
    for name in names:
        layer = layer.get_layer(name)
    return layer


def assert_same_base(one, other):
    for name in ("scaled", "embedded", "wide"):
        for a, b in zip(one.get_layer(name).get_weights(), other.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert one.get_layer("known").get_vocabulary() == other.get_layer("known").get_vocabulary()
    assert one.get_layer("binned").bin_boundaries == other.get_layer("binned").bin_boundaries
    rows = np.arange(30.0, dtype=np.float32)[:, None]
    np.testing.assert_allclose(one.predict(rows, verbose=0), other.predict(rows, verbose=0), rtol=1e-6)


def test_a_backbone_starts_from_the_trained_one_on_each_rank_and_goes_on(dataset, trained, tmp_path) -> None:
    one = sparkdl.fit(second, dataset, matching(trained, tmp_path / "one"), launch=group(1))
    three = sparkdl.fit(second, dataset, matching(trained, tmp_path / "three"), launch=group(3))
    assert_same_base(layer_of(trained, "base"), layer_of(one, "base"))
    assert_same_base(layer_of(trained, "base"), layer_of(three, "base"))
    for a, b in zip(one.history, three.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    loaded = [path for path, said in one.initial_layers.items() if said == "loaded"]
    assert {*loaded} == {"base/scaled", "base/binned", "base/known", "base/embedded", "base/wide"}
    assert one.initial_layers["dense"] == "no layer there has its name"
    assert one.initial_layers["top"] == "its kernel has shape (5, 4) there and (8, 2) here"
    # In mid-run: vocabularies are in no checkpoint, and are taken again.
    for path in sorted((tmp_path / "one" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    for name in ("finished.json", "model"):
        path = tmp_path / "one" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = sparkdl.fit(second, dataset, matching(trained, tmp_path / "one"), launch=group(2))
    assert_same_base(layer_of(trained, "base"), layer_of(again, "base"))
    assert [r["loss"] for r in again.history] == pytest.approx([r["loss"] for r in one.history], rel=1e-4)
    assert again.initial_layers == one.initial_layers


def test_the_options_of_the_docs_are_those_of_these_tests(trained) -> None:
    (program,) = (block for block in python_of("train.md") if "initial_weights" in block)
    told = eval(program, {"TrainConfig": TrainConfig, "first": trained})
    assert (told.initial_model, told.initial_weights) == (trained.model_dir, "matching")


def test_another_option_is_another_run(dataset, trained, tmp_path) -> None:
    sparkdl.fit(second, dataset, matching(trained, tmp_path / "run"), launch=group(1))
    with pytest.raises(sparkdl.CheckpointError, match="initial_model"):
        sparkdl.fit(second, dataset, config(tmp_path / "run"), launch=group(1))
    whole = config(tmp_path / "run", initial_model=trained.model_dir)
    with pytest.raises(sparkdl.SparkDLError, match="config.initial_weights was 'matching', is 'all'"):
        sparkdl.fit(first, dataset, whole, launch=group(1))


def test_names_alone_match_across_models_within(dataset, trained, tmp_path) -> None:
    result = sparkdl.fit(flat, dataset, matching(trained, tmp_path / "run", epochs=1), launch=group(1))
    said = result.initial_layers
    loaded = {path.rpartition("/")[2] for path, how in said.items() if how == "loaded"}
    assert loaded == {"scaled", "binned", "known", "embedded", "wide"}
    assert next(how for path, how in said.items() if path.endswith("pay")).startswith("its kernel has shape (4, 1)")


def none(ds):
    import keras

    age = keras.Input((1,), name="age")
    model = keras.Model([age], keras.layers.Dense(1, "sigmoid", name="other")(age))
    model.compile("sgd", "binary_crossentropy")
    return model


def test_no_match_is_an_error_that_says_why(dataset, trained, tmp_path) -> None:
    with pytest.raises(ModelError, match="has no layer that matches one of build_model's model: other: no layer there"):
        sparkdl.fit(none, dataset, matching(trained, tmp_path / "run"), launch=group(1))


def test_all_weights_bring_what_preprocessing_layers_have_learned(dataset, trained, tmp_path) -> None:
    def build_model(ds):
        model = first(ds)
        model.get_layer("base").get_layer("scaled").adapt(np.ones((3, 1)))
        model.get_layer("base").get_layer("known").set_vocabulary([5])
        model.get_layer("base").trainable = False
        model.compile("sgd", "binary_crossentropy")
        return model

    given = config(tmp_path / "run", initial_model=trained.model_dir)
    result = sparkdl.fit(build_model, dataset, given, launch=group(2))
    inner, before = layer_of(result, "base"), layer_of(trained, "base")
    assert inner.get_layer("known").get_vocabulary() == before.get_layer("known").get_vocabulary()
    np.testing.assert_allclose(inner.get_layer("scaled").mean, before.get_layer("scaled").mean)


def built_on(kind, path):
    """A `build_model` whose frozen base comes from a file."""

    def build_model(ds):
        import keras

        if kind == "applications":
            inputs = keras.Input((2, 3, 1), name="face")
            pixels = keras.layers.Concatenate()(3 * [keras.layers.Resizing(32, 32)(inputs)])
            options = {"alpha": 0.25, "include_top": False, "pooling": "avg", "name": "base"}
            inner = keras.applications.MobileNet((32, 32, 3), weights=path, **options)
        else:
            inputs = pixels = keras.Input((1,), name="age")
            loaded = keras.models.load_model(path) if kind == "keras" else sparkdl.load_model(path).keras_model
            inner = loaded.get_layer("base")
        inner.trainable = False
        model = keras.Model([inputs], keras.layers.Dense(1, "sigmoid")(inner(pixels)))
        model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
        return model

    return build_model


def weights_file(path):
    """Write weights that a MobileNet may have learned; return some of them."""
    import keras

    keras.utils.set_random_seed(8)
    model = keras.applications.MobileNet((32, 32, 3), weights=None, alpha=0.25, include_top=False, pooling="avg")
    model.save_weights(path)
    return model.get_weights()[0]


@pytest.mark.parametrize(
    "kind", ["keras", *[pytest.param(kind, marks=pytest.mark.soak) for kind in ("directory", "applications")]]
)
def test_build_model_may_load_its_base_from_a_file(dataset, trained, tmp_path, kind) -> None:
    path = {"keras": f"{trained.model_dir}/model.keras", "directory": trained.model_dir}.get(kind)
    path = path or str(tmp_path / "base.weights.h5")
    (kernel,) = sparkdl.run(weights_file, path, launch=group(1)) if kind == "applications" else (None,)
    results = [
        sparkdl.fit(built_on(kind, path), dataset, config(tmp_path / f"run-{workers}"), launch=group(workers))
        for workers in (1, 2)
    ]
    for a, b in zip(*(result.history for result in results), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    inner = layer_of(results[0], "base")
    if kernel is None:
        assert_same_base(layer_of(trained, "base"), inner)
    else:
        np.testing.assert_array_equal(inner.get_weights()[0], kernel)
