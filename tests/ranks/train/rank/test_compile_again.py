"""A callback that unfreezes layers and compiles the model in mid-training, on any number of ranks."""

from pathlib import Path

import numpy as np
import pytest

import sparkdl
from groups import local_group
from paths import FIXTURES, python_of
from sparkdl import CheckpointConfig, TrainConfig
from sparkdl.train.run.checkpoint import committed_checkpoints, read_checkpoint

pytestmark = pytest.mark.timeout(300)
EPOCHS, AT = 5, 2
TIMES = ("seconds", "rows_per_second", "data_wait_seconds", "allreduce_share")


def build_model(ds):
    """A frozen base under a head, in float64."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = keras.layers
    age = keras.Input((1,), name="age")
    inner = keras.Input((1,))
    base = layers.BatchNormalization(momentum=0.7)(layers.Dense(6, "tanh")(inner))
    base = keras.Model(inner, base, name="base")
    base.trainable = False
    model = keras.Model([age], layers.Dense(1, "sigmoid", name="pay")(base(age)))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "binary_crossentropy", metrics=["accuracy"])
    return model


def thawed(model):
    """Unfreeze the base, and compile with another optimizer, loss and metrics."""
    import keras

    model.get_layer("base").trainable = True
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 7, 0.5), clipnorm=0.5)
    model.compile(optimizer, "mse", metrics=["mae", keras.metrics.AUC(num_thresholds=50)])


def callbacks(folder=None, stop=None, at=AT, when="on_epoch_begin", act=thawed, only=None):
    """Callbacks that compile at an epoch; with a folder, rank 0 fails once at the step `stop`, (epoch, step)."""

    def make():
        import keras

        class Thaw(keras.callbacks.Callback):
            epoch = -1

            def act(self, hook):
                if (hook, self.epoch) == (when, at) and only in (None, sparkdl.world().rank):
                    act(self.model)

            def on_train_begin(self, logs=None):
                self.act("on_train_begin")

            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch
                self.act("on_epoch_begin")

            def on_train_batch_end(self, batch, logs=None):
                self.act("on_train_batch_end")
                mark = Path(folder or "", "failed")
                if sparkdl.world().rank == 0 and (self.epoch, batch) == stop and not mark.exists():
                    mark.touch()
                    raise RuntimeError("interrupted")

            def on_epoch_end(self, epoch, logs=None):
                self.act("on_epoch_end")

        return [Thaw()]

    return make


@pytest.fixture(scope="module")
def dataset():
    return sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))


def config(run_dir, **options):
    base = {"epochs": EPOCHS, "global_batch_size": 7, "seed": 3, "sync_batch_norm": True, "callbacks": callbacks()}
    base |= {"lr_scaling": "sqrt", "warmup_epochs": 3.5, "gradient_accumulation_steps": 2}
    return TrainConfig(run_dir=str(run_dir), **{**base, "checkpoint": CheckpointConfig(every_steps=2), **options})


def group(workers):
    return local_group(workers, log="errors")


def weights_of(result):
    return sparkdl.load_model(result.model_dir).keras_model.get_weights()


def assert_same(one, other):
    for a, b in zip(one.history, other.history, strict=True):
        a, b = ({k: v for k, v in record.items() if k not in TIMES} for record in (a, b))
        assert a.pop("per_worker", None) == b.pop("per_worker", None)
        assert a == pytest.approx(b, rel=1e-9, abs=1e-9)
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A run of one rank."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    given = config(folder, checkpoint=CheckpointConfig(monitor="val_loss"))
    return sparkdl.fit(build_model, dataset, given, launch=group(1))


@pytest.mark.parametrize("workers", [pytest.param(2, marks=pytest.mark.soak), 3])
def test_ranks_that_compile_in_mid_run_are_one_process(whole, dataset, tmp_path, workers) -> None:
    assert_same(whole, sparkdl.fit(build_model, dataset, config(tmp_path / "run"), launch=group(workers)))
    before, after = whole.history[AT - 1], whole.history[AT]
    assert {"accuracy", "val_accuracy"} <= {*before} and not {"auc", "mae"} & {*before}
    assert {"auc", "val_mae"} <= {*after} and "accuracy" not in after


@pytest.mark.parametrize(
    ("stop", "workers"), [pytest.param((AT, 2), (2, 1), marks=pytest.mark.soak), ((AT + 1, 0), (3, 2))]
)
def test_a_run_that_goes_on_after_a_compilation_is_uninterrupted(whole, dataset, tmp_path, stop, workers) -> None:
    given = config(tmp_path / "run", callbacks=callbacks(str(tmp_path), stop))
    with pytest.raises(sparkdl.WorkerError, match="interrupted"):
        sparkdl.fit(build_model, dataset, given, launch=group(workers[0]))
    latest = read_checkpoint(committed_checkpoints(str(tmp_path / "run" / "checkpoints"))[-1])
    assert latest.position.epoch == stop[0]
    assert latest.facts["compilation"]["config"]["loss"] == "mse"
    assert_same(whole, sparkdl.fit(build_model, dataset, given, launch=group(workers[1])))
    # More epochs continue with the optimizer of the callback.
    longer = config(tmp_path / "run", callbacks=callbacks(str(tmp_path), stop), epochs=EPOCHS + 1)
    assert "auc" in sparkdl.fit(build_model, dataset, longer, launch=group(2)).history[-1]


@pytest.mark.soak
def test_workers_that_train_alone_average_what_a_callback_compiled(dataset, tmp_path) -> None:
    """The averages are of the new optimizer's state: each rank goes on from them, and so does a run that goes on."""
    alone = {"sync_every": 2, "gradient_accumulation_steps": 1, "sync_batch_norm": False}
    uninterrupted = sparkdl.fit(build_model, dataset, config(tmp_path / "whole", **alone), launch=group(2))
    given = config(tmp_path / "run", callbacks=callbacks(str(tmp_path), (AT + 1, 2)), **alone)
    with pytest.raises(sparkdl.WorkerError, match="interrupted"):
        sparkdl.fit(build_model, dataset, given, launch=group(2))
    assert_same(uninterrupted, sparkdl.fit(build_model, dataset, given, launch=group(2)))
    assert "auc" in uninterrupted.history[-1] and uninterrupted.history[-1]["per_worker"]


def test_the_model_is_saved_as_it_was_compiled_last(whole, dataset) -> None:
    model = sparkdl.load_model(whole.model_dir).keras_model
    assert type(model.optimizer).__name__ == "Adam" and model.loss == "mse"
    assert int(model.optimizer.iterations) > 0 and len(model.trainable_weights) == 6
    found = sparkdl.evaluate(whole.model_dir, dataset, "val", launch=group(2))
    last = whole.history[-1]
    assert found == pytest.approx({name: last[f"val_{name}"] for name in ("loss", "mae", "auc")}, rel=1e-9)
    # val_loss was another loss's before: the best is that of the epochs since.
    best = sparkdl.evaluate(whole.best_model_dir, dataset, "val", launch=group(2))
    assert best["loss"] == pytest.approx(min(r["val_loss"] for r in whole.history[AT:]), rel=1e-9)


def plain(dataset):
    """What Keras alone computes in two trainings on all rows at once."""
    import keras

    from sparkdl.data.feed.sample_rows import sample_rows
    from sparkdl.data.feed.tensors import batch_of

    batch = batch_of(sample_rows(dataset, dataset.split("train")), dataset.layout, target="label")
    x, y, weights = keras.tree.map_structure(keras.ops.convert_to_numpy, batch)
    keras.utils.set_random_seed(3)
    model = build_model(dataset)
    model.optimizer.learning_rate = 0.1
    losses = model.fit(x, y, 64, AT, 0, sample_weight=weights).history["loss"]
    thawed(model)
    losses += model.fit(x, y, 64, EPOCHS - AT, 0, sample_weight=weights).history["loss"]
    return len(y), losses, model.get_weights()


@pytest.mark.parametrize("when", [pytest.param("on_epoch_begin", marks=pytest.mark.soak), "on_epoch_end"])
def test_a_compilation_is_what_two_trainings_in_keras_are(dataset, tmp_path, when) -> None:
    at = AT if when == "on_epoch_begin" else AT - 1
    options = {"lr_scaling": None, "warmup_epochs": 0, "gradient_accumulation_steps": 1, "global_batch_size": 64}
    given = config(tmp_path / "run", callbacks=callbacks(when=when, at=at), **options)
    result = sparkdl.fit(build_model, dataset, given, launch=group(2))
    ((rows, losses, weights),) = sparkdl.run(plain, dataset, launch=group(1))
    assert rows == dataset.split("train").rows
    assert [record["loss"] for record in result.history] == pytest.approx(losses, rel=1e-9)
    for a, b in zip(weights_of(result), weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def no_loss(model):
    model.compile("adam")


def own_loss(model):
    def local(y_true, y_pred):
        return (y_true - y_pred) ** 2

    model.compile("adam", local)


def forgetful(model):
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Scaled(keras.losses.Loss):
        def __init__(self, factor=1.0, name="scaled", reduction="sum_over_batch_size"):
            super().__init__(name, reduction)
            self.factor = factor

        def call(self, y_true, y_pred):
            return self.factor * keras.ops.square(y_true - y_pred)

        def get_config(self):
            return {"name": self.name, "reduction": self.reduction}

    model.compile("adam", Scaled(3.0))


def changed(model):
    model.get_layer("base").layers[-1].momentum = 0.9
    thawed(model)


def inexact(model):
    import keras

    model.compile("adam", "mse", metrics=[keras.metrics.PearsonCorrelation()])


def different(model):
    model.compile("adam", "mse" if sparkdl.world().rank else "mae")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"when": "on_train_batch_end"}, "was compiled within a run, whose steps hold its loss.*on_epoch_begin or"),
        pytest.param(
            {"when": "on_train_begin", "at": -1},
            "was compiled within a run, whose steps hold its loss",
            marks=pytest.mark.soak,
        ),
        ({"only": 0}, r"callbacks have compiled model '.*' on ranks \[0\] alone; compile it alike on every rank"),
        pytest.param(
            {"act": different},
            "callbacks have compiled model '.*' in different ways on different ranks",
            marks=pytest.mark.soak,
        ),
        pytest.param({"act": no_loss}, "has no loss; compile it with one", marks=pytest.mark.soak),
        ({"act": own_loss}, "with what Keras cannot make of its configuration.*register_keras_serializable"),
        ({"act": forgetful}, r"whose get_config does not hold its values \(.*Scaled.*factor was 3.0, is 1.0\)"),
        pytest.param(
            {"act": changed},
            "changed more than weights, trainable and compilation: .*momentum was 0.7, is 0.9",
            marks=pytest.mark.soak,
        ),
        ({"act": inexact}, "is a mean of the correlations of batches, not of all rows"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(dataset, tmp_path, options, message) -> None:
    given = config(tmp_path / "run", callbacks=callbacks(**options))
    with pytest.raises(sparkdl.ModelError, match=message):
        sparkdl.fit(build_model, dataset, given, launch=group(2))


def own_steps(ds):
    """A model whose own step keeps its loss in a metric."""
    import keras
    import tensorflow as tf

    keras.config.set_floatx("float64")

    class Own(keras.Model):
        def train_step(self, data):
            x, y, weights = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True), weights)
            self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
            self._loss_tracker.update_state(loss)
            return {"loss": self._loss_tracker.result()}

    keras.config.set_dtype_policy("float64")
    age = keras.Input((1,), name="age")
    hidden = keras.layers.Dense(6, "tanh", name="base", trainable=False)(age)
    own = Own([age], keras.layers.Dense(1, "sigmoid")(hidden))
    own.compile("sgd", "mae")
    return own


def test_a_model_with_its_own_steps_follows_too(dataset, tmp_path) -> None:
    def result(workers):
        given = config(tmp_path / f"run-{workers}", callbacks=callbacks(act=half), epochs=4)
        return sparkdl.fit(own_steps, dataset, given, launch=group(workers))

    one, three = result(1), result(3)
    for a, b in zip(one.history, three.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-9)


def own_steps_with_norm(ds):
    """The same with a layer that normalizes by all workers' rows."""
    import keras

    own = own_steps(ds)
    (age,) = own.inputs
    normed = keras.layers.BatchNormalization(name="norm")(own.layers[1](age))
    model = type(own)([age], keras.layers.Dense(1, "sigmoid")(normed))
    model.compile("sgd", "mae")
    return model


def test_an_own_step_does_not_weigh_norms_over_all_workers(dataset, tmp_path) -> None:
    """Losses differed between 1 and 3 workers in the fourth digit, without a word."""
    options = {"epochs": 1, "callbacks": None, "lr_scaling": None, "warmup_epochs": 0}
    with pytest.raises(
        sparkdl.ModelError, match="layer 'norm' normalizes by all workers' rows within an own train_step"
    ):
        sparkdl.fit(own_steps_with_norm, dataset, config(tmp_path / "run", **options), launch=group(2))
    given = config(tmp_path / "marked", exactness="per_worker", **options)
    assert sparkdl.fit(own_steps_with_norm, dataset, given, launch=group(2)).history[0]["per_worker"] == [
        "layer 'norm'"
    ]


def half(model):
    import keras

    model.get_layer("base").trainable = True
    model.compile(keras.optimizers.Adam(0.01), "mse")


def test_the_callback_of_the_docs_thaws(dataset, tmp_path) -> None:
    (program,) = (block for block in python_of("train.md") if "class Thaw" in block)

    def make():
        import keras

        namespace = {"keras": keras}
        exec(program, namespace)
        return [namespace["Thaw"]()]

    given = config(tmp_path / "run", callbacks=make, epochs=3, warmup_epochs=0, lr_scaling=None)
    result = sparkdl.fit(build_model, dataset, given, launch=group(1))
    assert [record["lr"] for record in result.history] == pytest.approx([0.1, 0.1, 1e-4])
    assert len(sparkdl.load_model(result.model_dir).keras_model.trainable_weights) == 6
