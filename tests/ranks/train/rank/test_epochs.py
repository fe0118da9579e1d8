"""Epochs of any number of steps, rare validations and augmented rows are exact on any number of ranks, and resumed."""

import contextlib
import csv
import dataclasses
import functools
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from groups import local_group
from paths import FIXTURES, ROOT
from sparkdl import CheckpointConfig, TrainConfig
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.spec import TrainSpec

# The first test with a number of ranks trains all runs on them.
pytestmark = pytest.mark.timeout(400)

TWO = pytest.param(2, marks=pytest.mark.soak)
TIMES = {"seconds", "rows_per_second", "data_wait_seconds", "allreduce_share"}
STEPS_OF_PASS = 15  # of 1,468 rows, 100 in a step


def digits_model(ds):
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = [keras.layers.Rescaling(1 / 16), keras.layers.Flatten(), keras.layers.Dense(16, "tanh")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(len(ds.classes), "softmax")])
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def autoencoder(ds):
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = [keras.layers.Flatten(), keras.layers.Dense(8, "tanh"), keras.layers.Dense(64)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Reshape((8, 8, 1))])
    model.compile(keras.optimizers.Adam(0.003), "mse")
    return model


def fixture_model(ds):
    """Of two columns of the fixture dataset-v1, by their names."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    inputs = {name: keras.Input(ds.features[name].shape, name=name) for name in ("age", "grid")}
    flat = [keras.layers.Flatten()(keras.layers.Reshape((-1,))(x)) for x in inputs.values()]
    joined = keras.layers.Concatenate()(flat)
    model = keras.Model(list(inputs.values()), keras.layers.Dense(1, "sigmoid")(joined))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "binary_crossentropy", metrics=["accuracy"])
    return model


def of_the_docs():
    """The function of docs/train.md, which turns and shifts an image by two draws."""
    (block,) = re.findall(r"```python\n(def augment.*?)```", (ROOT / "docs" / "train.md").read_text(), re.DOTALL)
    names = {"__name__": "docs", "TrainConfig": TrainConfig}
    exec(block, names)
    return names["augment"]


turned = of_the_docs()


def turned_with_labels(image, label, seed):
    import tensorflow as tf

    return turned(image, seed), tf.where(tf.random.stateless_uniform((), seed) < 0.1, 0, label)


def noisy(image, seed):
    import tensorflow as tf

    return image + tf.random.stateless_normal(image.shape, seed, dtype=image.dtype)


def noisy_by_name(inputs, seed):
    import tensorflow as tf

    # A padding row, all zeros, would not pass.
    with tf.control_dependencies([tf.debugging.assert_positive(tf.reduce_sum(tf.abs(inputs["grid"])))]):
        return {**inputs, "age": inputs["age"] + tf.random.stateless_normal((), seed, dtype=inputs["age"].dtype)}


def slower(folder):
    """Callbacks that act on validations, whichever epochs have one."""

    def make():
        import keras

        class BreakOff(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch

            def on_train_batch_begin(self, batch, logs=None):
                if (Path(folder) / f"break-{self.epoch}-{batch}").exists():
                    raise InterruptedError

        return [
            keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5, min_delta=10.0),
            keras.callbacks.CSVLogger(f"{folder}/log.csv"),
            BreakOff(),
        ]

    return make


def stopping():
    import keras

    return [keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=10.0)]


# name -> options of a run
RUNS = {
    "passes": {"epochs": 2},
    "as long as a pass": {"epochs": 2, "steps_per_epoch": STEPS_OF_PASS},
    "short": {"epochs": 5, "steps_per_epoch": 4, "validation_every": 2, "augment": turned},
    "long": {"epochs": 2, "steps_per_epoch": 20, "augment": turned_with_labels},
    "stopped": {"epochs": 30, "steps_per_epoch": 2, "validation_every": 3, "callbacks": stopping},
    "denoising": {"epochs": 1, "target": "inputs", "augment": noisy},
    "by name": {"epochs": 1, "global_batch_size": 2, "augment": noisy_by_name},
}
# What `make soak` alone trains: other parts of the same ways.
LONG = ("passes", "as long as a pass", "denoising")
BUILD = {"denoising": autoencoder, "by name": fixture_model}


def task(name, folder, dataset, **options) -> TrainSpec:
    given = {"epochs": 1, "global_batch_size": 100, "seed": 3, **RUNS[name], **options}
    config = TrainConfig(run_dir=str(folder / name), **given)
    Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    build_model = BUILD.get(name, digits_model)
    return TrainSpec(build_model=build_model, dataset=dataset, config=config, run=RunDir(config.run_dir))


def train(task):
    """History, weights and warnings of a run of this rank."""
    import keras

    from sparkdl.train.entry import train_rank

    keras.backend.clear_session()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = train_rank(task).history
    history = [{name: value for name, value in record.items() if name not in TIMES} for record in history]
    weights = None
    if sparkdl.world().rank == 0:
        weights = keras.saving.load_model(f"{task.run.model}/model.keras").get_weights()
    return history, weights, [str(warning.message) for warning in told]


def train_all(tasks):
    """All runs of one number of ranks: starting TensorFlow costs more than any of them."""
    trained = {name: train(one) for name, one in tasks.items()}
    return trained, plain_keras(tasks["short"]) if sparkdl.world().size == 1 else None


def plain_keras(task):
    """The weights after the steps of "short", by Keras' own train_on_batch over rows that are augmented one by one."""
    import keras
    import tensorflow as tf

    from sparkdl.data.feed.feed import Feed

    keras.backend.clear_session()
    dataset, config = task.dataset, task.config
    keras.utils.set_random_seed(config.seed)
    model = task.build_model(dataset)
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=100, seed=config.seed)
    left, seeds_seen = config.epochs * config.steps_per_epoch, set()
    for block in feed.blocks(range(2), seeds=True):
        for start, stop in zip(block.starts, block.stops, strict=True):
            if left > 0:
                images, digits = (array[start:stop] for array in block.arrays)
                seeds = block.seeds[start:stop]
                seeds_seen |= set(map(tuple, seeds.tolist()))
                rows = [config.augment(tf.constant(x), tf.constant(s)) for x, s in zip(images, seeds, strict=True)]
                model.train_on_batch(np.stack(rows), digits)
                left -= 1
    assert len(seeds_seen) == 1468 + 500, "each row of each pass has its own seed"
    return model.get_weights()


@pytest.fixture(scope="module")
def datasets(digits_dataset):
    return {"by name": sparkdl.open_dataset(str(FIXTURES / "dataset-v1")), None: digits_dataset}


@pytest.fixture(scope="module")
def trained(request, datasets, tmp_path_factory):
    """The runs that are tested, on a number of ranks."""
    of_module = [item for item in request.session.items if item.module is request.module]
    chosen = {item.callspec.params.get("run") for item in of_module if hasattr(item, "callspec")}
    tested = [name for name in RUNS if name not in LONG or name in chosen]

    def on(workers):
        folder = tmp_path_factory.mktemp(f"on-{workers}")
        tasks = {name: task(name, folder, datasets.get(name, datasets[None])) for name in tested}
        return sparkdl.run(train_all, tasks, launch=local_group(workers))[0]

    return functools.cache(on)


def assert_same(one, other) -> None:
    for a, b in zip(one[0], other[0], strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("workers", [TWO, 3])
@pytest.mark.parametrize("run", [pytest.param(run, marks=pytest.mark.soak) if run in LONG else run for run in RUNS])
def test_nothing_depends_on_the_ranks(trained, run, workers) -> None:
    assert_same(trained(workers)[0][run], trained(1)[0][run])


def test_an_epoch_goes_on_where_the_last_one_ended_with_each_row_changed_by_its_seed(trained) -> None:
    runs, plain = trained(1)
    for a, b in zip(runs["short"][1], plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert [len(runs[name][0]) for name in ("short", "long")] == [5, 2]
    if "passes" in runs:
        assert_same(runs["passes"], runs["as long as a pass"])


def test_each_nth_epoch_and_the_last_are_validated_without_warnings(trained) -> None:
    runs = trained(3)[0]
    validated = [[r["epoch"] for r in runs[name][0] if "val_loss" in r] for name in ("short", "stopped")]
    assert validated == [[1, 3, 4], [2, 5, 8]]
    assert all("val_accuracy" in r or not any(n.startswith("val_") for n in r) for r in runs["short"][0])
    # Patience counts the epochs that have a value.
    assert len(runs["stopped"][0]) == 9
    assert not [text for text in runs["stopped"][2] if "val_loss" in text]


def pieces(task):
    with contextlib.suppress(InterruptedError):
        return train(dataclasses.replace(task, checkpoint=task.run.latest_checkpoint()))


def test_a_run_goes_on_in_mid_epoch_on_another_number_of_workers(datasets, tmp_path) -> None:
    checkpoint = CheckpointConfig(every_steps=1, monitor="val_loss")
    runs = []
    for name, breaks in (("whole", []), ("pieces", ["break-1-2", "break-4-1"])):
        folder = tmp_path / name
        folder.mkdir()
        options = {"checkpoint": checkpoint, "callbacks": slower(folder), "epochs": 6}
        run = task("short", folder, datasets[None], **options)
        for workers, stop in zip((2, 1), breaks, strict=False):
            (folder / stop).touch()
            assert set(sparkdl.run(pieces, run, launch=local_group(workers))) == {None}
            (folder / stop).unlink()
        runs.append((sparkdl.run(pieces, run, launch=local_group(3))[0], folder, run.run))
    (whole, folder, _), (done, other, run_dir) = runs
    assert_same(done, whole)
    # Rows are validated as they are.
    evaluated = sparkdl.evaluate(run_dir.model, datasets[None], "val", launch=local_group(1))
    assert evaluated["loss"] == pytest.approx(done[0][-1]["val_loss"], rel=1e-9)
    one, two = (list(csv.reader((f / "log.csv").read_text().splitlines())) for f in (folder, other))
    assert two[0] == one[0] and [len(row) for row in two] == [len(one[0])] * 7
    for a, b in zip(one[1:], two[1:], strict=True):
        assert [x == "NA" for x in a] == [x == "NA" for x in b]
        assert [float(x) for x in b if x != "NA"] == pytest.approx([float(x) for x in a if x != "NA"], rel=1e-9)
    best = min((r for r in done[0] if "val_loss" in r), key=lambda r: r["val_loss"])
    kept = json.loads(Path(run_dir.best).read_text())
    assert kept["epoch"] == best["epoch"] and kept["value"] == pytest.approx(best["val_loss"], rel=1e-9)


def without_age(inputs, seed):
    return {"grid": inputs["grid"]}


def in_other_dtype(inputs, seed):
    import tensorflow as tf

    return {**inputs, "age": tf.cast(inputs["age"], tf.float16)}


def cropped(inputs, seed):
    return {**inputs, "grid": inputs["grid"][:1]}


def without_labels(inputs, labels, seed):
    return inputs


def drawing(inputs, seed):
    import tensorflow as tf

    return {**inputs, "age": inputs["age"] + tf.random.normal((), dtype=inputs["age"].dtype)}


def drawing_by_numpy(inputs, seed):
    return {**inputs, "age": inputs["age"] + np.random.normal()}


def drawing_in_a_layer(inputs, seed):
    import keras

    return {**inputs, "grid": keras.layers.GaussianNoise(1.0)(inputs["grid"], training=True)}


def failing(inputs, seed):
    raise KeyError("mine")


REFUSED = {
    without_age: "augment=without_age must return inputs as a dict of age, .*; it gave a dict of grid",
    in_other_dtype: r"must return inputs 'age' as float32 \[\] for a row, .*; it gave float16",
    cropped: r"must return inputs 'grid' as float32 \[.*\] for a row, .*; it gave float32 \(1,",
    without_labels: r"augment=without_labels must return \(inputs, targets\), and returned a dict of",
    drawing: "augment=drawing must return the same for the same row and seed, and keep no state; draw by its",
    drawing_by_numpy: "must return the same for the same row and seed",
    drawing_in_a_layer: "must return the same for the same row and seed.*Keras layers that draw",
    failing: "^KeyError: 'mine'$",
}


def refusals(tasks):
    from sparkdl.train.entry import start_rank
    from sparkdl.train.rank.augmentation import check_augment

    start_rank()
    found = []
    for one in tasks:
        try:
            check_augment(one)
            found.append("")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def test_functions_that_cannot_be_exact_are_refused_before_training(datasets, tmp_path) -> None:
    tasks = [task("by name", tmp_path, datasets["by name"], augment=one) for one in (noisy_by_name, *REFUSED)]
    (found,) = sparkdl.run(refusals, tasks, launch=local_group(1))
    assert found[0] == ""
    for text, (function, message) in zip(found[1:], REFUSED.items(), strict=True):
        assert re.search(message, text), (function.__name__, text)


def test_the_function_belongs_to_the_run(datasets, tmp_path) -> None:
    def fit(augment, epochs=1):
        config = task("by name", tmp_path, datasets["by name"], augment=augment, epochs=epochs).config
        return sparkdl.fit(fixture_model, datasets["by name"], config, launch=local_group(1))

    first = fit(noisy_by_name)
    assert fit(noisy_by_name).history == first.history
    message = "holds another run: the code of augment is another; choose another run_dir, or resume='replace'"
    for epochs in (1, 2):  # finished, and going on
        with pytest.raises(sparkdl.CheckpointError, match=message):
            fit(without_age if epochs == 1 else (lambda inputs, seed: inputs), epochs)
    with pytest.raises(sparkdl.CheckpointError, match="holds another run: config.augment was 'given', is None"):
        fit(None)
    assert len(fit(noisy_by_name, epochs=2).history) == 2
