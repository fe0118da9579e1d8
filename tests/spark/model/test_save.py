"""A Keras model that was trained elsewhere becomes a model directory, which loads with and without sparkdl."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from sparkdl import ConfigError, ModelError, SchemaError
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.features import Categorical, Image, Numeric, Tensor, Text

ROOT = Path(sparkdl.__file__).resolve().parents[1]
AGE = NumericEncoder("age", (), "standardize", 40.0, 10.0, 18.0, 90.0, 41.0)
JOB = CategoricalEncoder("job", ("cook", "smith"), False)
ROWS = {"age": [50.0, None, 20.0], "job": ["smith", "cook", "baker"], "hours": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}
# What the encoders make of these rows.
ENCODED = {
    "age": np.array([1.0, 0.1, -2.0], np.float32),
    "job": np.array([2, 1, 0], np.int32),
    "hours": np.array(ROWS["hours"], np.float32),
}

OWN_LAYERS = """
import keras

@keras.saving.register_keras_serializable("own")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

@keras.saving.register_keras_serializable("own")
def plus_one(x):
    return x + 1

@keras.saving.register_keras_serializable("own")
class Tower(keras.Model):
    def __init__(self, units=3, **options):
        super().__init__(**options)
        self.units = units
        self.embed, self.dense = keras.layers.Embedding(3, 4), keras.layers.Dense(units)

    def call(self, inputs):
        age, job = keras.ops.expand_dims(inputs["age"], 1), self.embed(inputs["job"])
        return self.dense(keras.ops.concatenate([age, job, inputs["hours"]], axis=1))

    def get_config(self):
        return {**super().get_config(), "units": self.units}
"""


def functional(**options):
    import keras

    layers = keras.layers
    inputs = {
        "age": keras.Input((), name="age"),
        "job": keras.Input((), name="job", dtype="int32"),
        "hours": keras.Input((2,), name="hours"),
    }
    embedded = layers.Embedding(3, 4)(inputs["job"])
    joined = layers.Concatenate()([layers.Reshape((1,))(inputs["age"]), embedded, inputs["hours"]])
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(joined), **options)
    model.compile(keras.optimizers.AdamW(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def own_layers(tmp_path_factory):
    """A module of the user's own, and the folder that it is in."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_layers_of_a_user.py").write_text(OWN_LAYERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import own_layers_of_a_user

        yield own_layers_of_a_user, folder
        sys.modules.pop("own_layers_of_a_user")


def run_python(code: str, *arguments: object, folder: Path | None = None) -> str:
    """What a fresh Python prints; TensorFlow's own lines go elsewhere."""
    path = os.pathsep.join(str(place) for place in (ROOT, folder) if place)
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_functional_model_scores_raw_rows(tmp_path) -> None:
    model, folder = functional(), str(tmp_path / "m")
    signature = sparkdl.save_model(model, folder, inputs=[AGE, JOB, "hours"], label=["low", "mid", "high"])
    assert signature == sparkdl.load_model(folder).signature and signature.input_names == ("age", "job", "hours")
    assert signature.outputs[0].classes == ("low", "mid", "high")
    assert sorted(os.listdir(folder)) == ["model.keras", "signature.json"] and os.listdir(tmp_path) == ["m"]
    assert np.allclose(sparkdl.load_model(folder).predict(ROWS), model(ENCODED), rtol=1e-5, atol=1e-6)


def test_a_sequential_model_takes_its_shape_from_its_input_and_flat_rows(tmp_path) -> None:
    import keras

    model = keras.Sequential([keras.Input((2, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=["pixels"])
    pixels = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    loaded = sparkdl.load_model(str(tmp_path / "m"))
    for rows in (pixels, pixels.reshape(2, 6), pixels.tolist()):
        assert np.allclose(loaded.predict({"pixels": rows}), model(pixels), rtol=1e-5, atol=1e-6)
    with pytest.raises(SchemaError, match="column 'pixels'"):
        loaded.predict({"pixels": pixels.reshape(2, 3, 2)})


def test_a_scalar_column_feeds_an_input_of_one_number(tmp_path) -> None:
    import keras

    model = keras.Sequential([keras.Input((1,), dtype="int32"), keras.layers.Embedding(5, 2), keras.layers.Flatten()])
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=["code"])
    found = sparkdl.load_model(str(tmp_path / "m")).predict({"code": [0, 4, 2]})
    assert np.allclose(found, model.layers[0].embeddings.numpy()[[0, 4, 2]])


def test_a_subclassed_model_with_features_that_need_no_fit(own_layers, tmp_path) -> None:
    module, _ = own_layers
    model = module.Tower()
    features = [Numeric("age", scale="none", fill=7), JOB, Tensor("hours", shape=(2,))]
    with pytest.raises(ModelError, match="'tower' has no weights yet"):
        sparkdl.save_model(model, str(tmp_path / "m"), inputs=features)
    encoded = {**ENCODED, "age": np.array([50, 7, 20], np.float32)}
    expected = model(encoded)
    with pytest.raises(ModelError, match="feature 'hours': the model declares no inputs; give Tensor.'hours', shape=…"):
        sparkdl.save_model(model, str(tmp_path / "m"), inputs=[*features[:2], "hours"])
    with pytest.raises(ModelError, match="'tower' cannot be called with rows of hours float32 .2,.: .*age"):
        sparkdl.save_model(model, str(tmp_path / "m"), inputs=features[2:])
    signature = sparkdl.save_model(model, str(tmp_path / "m"), inputs=features)
    assert signature.custom_objects == {"own>Tower": "own_layers_of_a_user"}
    assert np.allclose(sparkdl.load_model(str(tmp_path / "m")).predict(ROWS), expected, rtol=1e-5, atol=1e-6)


def test_a_dataset_gives_features_labels_and_types(tmp_path) -> None:
    import keras

    dataset = sparkdl.open_dataset(str(ROOT / "tests" / "fixtures" / "dataset-v1"))
    inputs = {e.name: keras.Input(e.shape, name=e.name, dtype=e.dtype.name) for e in dataset.encoders}
    flat = [keras.layers.Flatten()(keras.layers.Reshape((-1,))(value)) for value in inputs.values()]
    joined = keras.layers.Concatenate()([keras.ops.cast(value, "float32") for value in flat])
    model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    signature = sparkdl.save_model(model, str(tmp_path / "m"), inputs=dataset)
    assert signature.inputs == dataset.encoders and signature.labels == dataset.label_encoders
    assert signature.raw_types["born"] == "date" and signature.outputs[0].classes == ("high", "low")
    signature = sparkdl.save_model(model, str(tmp_path / "autoencoder"), inputs=dataset, target="inputs")
    assert sparkdl.load_model(str(tmp_path / "autoencoder")).signature.target == "inputs" and signature.labels == ()


def test_a_model_without_label_is_evaluated_only_as_an_autoencoder(tmp_path) -> None:
    import keras

    dataset = sparkdl.open_dataset(str(ROOT / "tests" / "fixtures" / "dataset-v1"))
    unlabelled = dataclasses.replace(dataset, encoders=dataset.encoders[:1], label_encoders=())
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=unlabelled.encoders)
    with pytest.raises(ConfigError, match="has no label to evaluate with; if the model .* target='inputs'"):
        sparkdl.evaluate(str(tmp_path / "m"), unlabelled, launch=sparkdl.LaunchConfig(num_workers=1, local=True))


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        ([AGE, JOB], ModelError, "the model's input 'hours' has no feature; inputs name age, job"),
        ([AGE, JOB, "hour"], ModelError, "feature 'hour' is not an input of the model; did you mean 'hours'?"),
        (
            [AGE, JOB, Tensor("hours", shape=(3,))],
            ModelError,
            "'hours' has rows of shape .3,., the model's input .* .2,.",
        ),
        ([AGE, Tensor("job", shape=(), dtype="float64"), "hours"], ModelError, "'job' is float64, .* 'job' is int32"),
        ([AGE, Categorical("job"), "hours"], ConfigError, "Categorical.'job'. needs statistics .* ds.features.'job'."),
        ([AGE, Text("job", length=2), "hours"], ConfigError, "Text.'job'. needs statistics"),
        ([Numeric("age"), JOB, "hours"], ConfigError, "Numeric.'age'. needs statistics"),
        ([Numeric("age", scale="none", fill="mean"), JOB, "hours"], ConfigError, "Numeric.'age'. needs statistics"),
        ([AGE, AGE, JOB, "hours"], ConfigError, "inputs name the column 'age' twice"),
        ([AGE, JOB, 3], ConfigError, "3 is not a feature"),
        ([], ConfigError, "inputs=.. must be a list of features, or a prepared dataset"),
        ("hours", ConfigError, "inputs='hours' must be a list"),
        ([AGE, JOB, Image("hours", height=1, width=2)], ModelError, "'hours' has rows of shape .1, 2, 3."),
    ],
)
def test_features_that_are_not_the_models_inputs_are_refused(tmp_path, inputs, kind, message) -> None:
    with pytest.raises(kind, match=message) as raised:
        sparkdl.save_model(functional(), str(tmp_path / "m"), inputs=inputs)
    assert "\n" not in str(raised.value) and os.listdir(tmp_path) == []


@pytest.mark.parametrize("label", ["low", ["low"], ["low", "low"], ["low", 1], 3])
def test_what_is_no_label_is_refused(tmp_path, label) -> None:
    with pytest.raises(ConfigError, match="label=.* must be fitted labels"):
        sparkdl.save_model(functional(), str(tmp_path / "m"), inputs=[AGE, JOB, "hours"], label=label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "input"}, "target='input' must be 'label' or 'inputs'"),
        ({"target": "inputs", "label": ["low", "high"]}, "target='inputs' is for models without a label"),
    ],
)
def test_what_is_no_target_is_refused(tmp_path, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        sparkdl.save_model(functional(), str(tmp_path / "m"), inputs=[AGE, JOB, "hours"], **options)


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_not(tmp_path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="m is not empty: it holds 'notes.txt'; delete it or choose another folder"):
        sparkdl.save_model(functional(), str(tmp_path / "m"), inputs=[AGE, JOB, "hours"])
    (tmp_path / "m" / "notes.txt").unlink()
    sparkdl.save_model(functional(), str(tmp_path / "m"), inputs=[AGE, JOB, "hours"])
    with pytest.raises(ModelError, match="is not empty"):
        sparkdl.save_model(functional(), str(tmp_path / "m"), inputs=[AGE, JOB, "hours"])
    with pytest.raises(ConfigError, match="must be a Keras model"):
        sparkdl.save_model("model", str(tmp_path / "other"), inputs=["x"])


def test_a_model_that_cannot_be_saved_leaves_nothing(tmp_path) -> None:
    import keras

    class Unsavable(keras.layers.Layer):
        def call(self, x):
            return x

        def save_own_variables(self, store):
            raise RuntimeError("disk full of cats")

    model = keras.Sequential([keras.Input((2,)), Unsavable(), keras.layers.Dense(1)])
    with pytest.raises(ModelError, match="Keras cannot save model .*disk full of cats"):
        sparkdl.save_model(model, str(tmp_path / "m"), inputs=["x"])
    assert os.listdir(tmp_path) == []


WITHOUT_SPARKDL = """
import json, sys
sys.modules["sparkdl"] = None
import numpy as np, keras
model = keras.saving.load_model(sys.argv[1] + "/model.keras")
encoded = {k: np.array(v, "int32" if k == "job" else "float32") for k, v in json.loads(sys.argv[2]).items()}
logs = model.evaluate(encoded, np.array([0, 1, 2]), verbose=0, return_dict=True)
optimizer = model.optimizer
print(json.dumps({
    "optimizer": [type(optimizer).__module__, type(optimizer).__name__, float(optimizer.learning_rate)],
    "logs": sorted(logs), "predictions": model.predict(encoded, verbose=0).tolist(), "steps": int(optimizer.iterations),
    "moments": [float(np.abs(v.numpy()).sum()) for v in optimizer.variables[2:]],
}))
"""


def test_keras_alone_loads_the_model_compiled_with_the_users_optimizer(tmp_path) -> None:
    model = functional()
    model.fit(ENCODED, np.array([0, 1, 2]), epochs=2, verbose=0)
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=[AGE, JOB, "hours"])
    encoded = json.dumps({name: value.tolist() for name, value in ENCODED.items()})
    found = json.loads(run_python(WITHOUT_SPARKDL, tmp_path / "m", encoded))
    assert found["optimizer"][0].startswith("keras.") and found["optimizer"][1] == "AdamW" and found["steps"] == 2
    assert found["optimizer"][2] == pytest.approx(0.02) and found["logs"] == ["accuracy", "loss"]
    assert np.allclose(found["predictions"], model(ENCODED), rtol=1e-5, atol=1e-6)
    moments = [float(np.abs(v.numpy()).sum()) for v in model.optimizer.variables[2:]]
    assert np.allclose(found["moments"], moments) and max(moments) > 0


IN_A_FRESH_PROCESS = """
import sys
import keras, sparkdl
model_dir, rows = sys.argv[1], {"x": [[1.0, 2.0]]}
try:
    sparkdl.load_model(model_dir)
except sparkdl.ModelError as error:
    print(error)
print("own_layers_of_a_user" in sys.modules)

class Mine(keras.layers.Layer):
    def call(self, x):
        return 10 * x

given = {"Twice": Mine, "own>plus_one": lambda x: x + 0.5}
print(sparkdl.load_model(model_dir, custom_objects=given).predict(rows).tolist(), "own_layers_of_a_user" in sys.modules)
print(sparkdl.load_model(model_dir, safe_mode=False).predict(rows).tolist(), "own_layers_of_a_user" in sys.modules)
print(sparkdl.load_model(model_dir, custom_objects=given).predict(rows).tolist())
"""


def test_own_classes_are_named_given_or_imported_on_request(own_layers, tmp_path) -> None:
    import keras

    module, folder = own_layers
    model = keras.Sequential([keras.Input((2,)), module.Twice(), keras.layers.Activation(module.plus_one)])
    signature = sparkdl.save_model(model, str(tmp_path / "m"), inputs=["x"])
    assert signature.custom_objects == dict.fromkeys(["own>Twice", "own>plus_one"], "own_layers_of_a_user")
    error, imported, given, by_import, given_again = run_python(
        IN_A_FRESH_PROCESS, tmp_path / "m", folder=folder
    ).splitlines()
    assert error.endswith(
        "model.keras: the model holds own>Twice of module own_layers_of_a_user and 1 more (own>plus_one), which this "
        "process does not know: import own_layers_of_a_user before, give custom_objects={'Twice': Twice}, or, if you "
        "trust it, safe_mode=False, which imports it"
    )
    assert imported == "False"
    # The stand-ins, not the user's own; they count more than what is registered, too.
    assert given == "[[10.5, 20.5]] False" and given_again == "[[10.5, 20.5]]"
    assert by_import == "[[3.0, 5.0]] True"


@pytest.mark.parametrize("wrong", [["Twice"], {"Twice": 3}, {3: len}])
def test_what_are_no_custom_objects_is_refused(tmp_path, wrong) -> None:
    sparkdl.save_model(functional(), str(tmp_path / "m"), inputs=[AGE, JOB, "hours"])
    with pytest.raises(ConfigError, match="custom_objects=.* must be classes and functions by name"):
        sparkdl.load_model(str(tmp_path / "m"), custom_objects=wrong)


def test_a_repacked_file_is_read_if_the_signature_tells_of_it_and_a_damaged_one_refused(tmp_path) -> None:
    import hashlib
    import zipfile

    model, file = functional(), tmp_path / "m" / "model.keras"
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=[AGE, JOB, "hours"])
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    other = "model.keras is not the file that its signature.json tells of"
    with pytest.raises(ModelError, match=other):
        sparkdl.load_model(str(tmp_path / "m"))
    signature = tmp_path / "m" / "signature.json"
    told = json.loads(signature.read_text())
    signature.write_text(json.dumps({**told, "content_hash": hashlib.sha256(file.read_bytes()).hexdigest()}))
    assert np.allclose(sparkdl.load_model(str(tmp_path / "m")).predict(ROWS), model(ENCODED), rtol=1e-5, atol=1e-6)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=other):
        sparkdl.load_model(str(tmp_path / "m"))
    file.unlink()
    with pytest.raises(ModelError, match="Keras cannot load .*model.keras.*No such file"):
        sparkdl.load_model(str(tmp_path / "m"))
