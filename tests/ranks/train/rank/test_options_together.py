"""Options that meet in one run: compilations in mid-run, averages of weights, local SGD, hooks, and going on."""

from pathlib import Path

import numpy as np
import pytest

import sparkdl
from groups import local_group
from paths import FIXTURES
from sparkdl import CheckpointConfig, PrepareConfig, TrainConfig
from sparkdl.features import Categorical, Numeric, Tensor
from sparkdl.model.signature import Signature

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def dataset():
    return sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))


def group(workers):
    return local_group(workers, log="errors")


def config(run_dir, **options):
    return TrainConfig(run_dir=str(run_dir), **{"epochs": 2, "global_batch_size": 7, "seed": 3, **options})


def one_input(optimizer, *, frozen=(), head="pay", bias=0.0, middle=None, loss="binary_crossentropy"):
    """A `build_model` in float64 of two hidden layers."""

    def build_model(ds):
        import keras

        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        age = keras.Input((1,), name="age")
        hidden = middle()(age) if middle else age
        for name in ("one", "two"):
            hidden = keras.layers.Dense(3, "tanh", name=name, trainable=name not in frozen)(hidden)
        outputs = keras.layers.Dense(1, "sigmoid", name=head)(hidden)
        model = keras.Model([age], outputs)
        kernel, _ = model.get_layer(head).get_weights()
        model.get_layer(head).set_weights([kernel, np.array([bias])])
        model.compile(optimizer(), loss)
        return model

    return build_model


def sgd():
    import keras

    return keras.optimizers.SGD(0.1)


def still_averaging():
    """A rate of 0: averages of the weights are the weights."""
    import keras

    return keras.optimizers.SGD(0.0, use_ema=True)


def doing(folder=None, stop=None, **hooks):
    """Callbacks that call a function of the model and the epoch in a hook; at `stop`, (epoch, step), they fail once."""

    def make():
        import keras

        class Does(keras.callbacks.Callback):
            epoch = -1

            def act(self, hook):
                hooks.get(hook, lambda model, epoch: None)(self.model, self.epoch)

            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch
                self.act("begin")

            def on_train_batch_end(self, batch, logs=None):
                mark = Path(folder or "", "failed")
                if sparkdl.world().rank == 0 and (self.epoch, batch) == stop and not mark.exists():
                    mark.touch()
                    raise RuntimeError("interrupted")

            def on_epoch_end(self, epoch, logs=None):
                self.act("end")

        return [Does()]

    return make


def weights_of(result):
    return sparkdl.load_model(result.model_dir).keras_model.get_weights()


def assert_same(one, other):
    assert [r["loss"] for r in one.history] == pytest.approx([r["loss"] for r in other.history], rel=1e-9)
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def average_in_the_last_epoch(model, epoch):
    import keras

    if epoch == 1:
        model.compile(keras.optimizers.Adam(1e-3, use_ema=True), "binary_crossentropy")


def test_an_optimizer_without_a_step_leaves_the_weights(dataset, tmp_path) -> None:
    """Its averages were zeros, and the saved model was."""
    given = config(tmp_path / "run", callbacks=doing(end=average_in_the_last_epoch))
    result = sparkdl.fit(one_input(sgd), dataset, given, launch=group(1))
    found = sparkdl.evaluate(result.model_dir, dataset, "val", launch=group(1))
    assert found["loss"] == pytest.approx(result.history[-1]["val_loss"], rel=1e-9)
    assert all(np.abs(weight).max() > 0 for weight in weights_of(result))


def thaw_one_more(model, epoch):
    """Unfreeze the next layer at each epoch's begin."""
    for name in ("two", "one"):
        layer = model.get_layer(name)
        if not layer.trainable:
            layer.trainable = True
            model.compile("adam", "binary_crossentropy")
            return


def own_again(model, epoch):
    """Compile with another loss and, in the next epoch, with the user's own again."""
    if epoch:
        model.compile("sgd", "mse" if epoch == 1 else twice)


def twice(y_true, y_pred):
    import keras

    return keras.ops.mean(keras.ops.square(y_true - y_pred) * 2.0, axis=-1)


@pytest.mark.parametrize(
    ("build_model", "act", "stop"),
    [
        (one_input(sgd, frozen=("one", "two")), thaw_one_more, (1, 2)),
        (one_input(sgd, loss=twice), own_again, (2, 0)),
    ],
    ids=["one layer more each epoch", "an own loss again"],
)
def test_what_a_callback_does_at_an_epochs_begin_is_not_done_twice(dataset, tmp_path, build_model, act, stop) -> None:
    options = {"epochs": 3, "checkpoint": CheckpointConfig(every_steps=2)}
    whole = sparkdl.fit(
        build_model, dataset, config(tmp_path / "whole", callbacks=doing(begin=act), **options), launch=group(1)
    )
    given = config(tmp_path / "run", callbacks=doing(str(tmp_path), stop, begin=act), **options)
    with pytest.raises(sparkdl.WorkerError, match="interrupted"):
        sparkdl.fit(build_model, dataset, given, launch=group(2))
    assert_same(whole, sparkdl.fit(build_model, dataset, given, launch=group(1)))


def shifted():
    import keras

    class Shift(keras.layers.Layer):
        """Subtracts a running mean, which it moves whenever it is called."""

        sparkdl_reduction = "mean"

        def build(self, shape):
            self.mean = self.add_weight(shape=shape[1:], initializer="zeros", trainable=False, name="mean")

        def call(self, x):
            shifted = x - self.mean
            self.mean.assign_add(0.05 * (keras.ops.mean(x, axis=0) - self.mean))
            return shifted

    return Shift(name="shift")


def compile_alike(model, epoch):
    if epoch == 0:
        assert float(np.abs(model.get_layer("shift").mean.numpy()).max()) == 0.0, "no trial moved it"
    else:
        model.compile("sgd", "binary_crossentropy")


def test_trials_leave_the_state_of_layers_as_it_was(dataset, tmp_path) -> None:
    """They moved it, after a compilation on rank 0 alone."""
    build_model = one_input(sgd, middle=shifted)
    one, two = (
        sparkdl.fit(
            build_model,
            dataset,
            config(tmp_path / str(workers), callbacks=doing(begin=compile_alike), validation=None),
            launch=group(workers),
        )
        for workers in (1, 2)
    )
    assert [r["loss"] for r in one.history] == pytest.approx([r["loss"] for r in two.history], rel=1e-9)


def test_averages_of_a_rank_without_rows_begin_as_the_weights(dataset, tmp_path) -> None:
    """Its average began at 0, in steps that had no row for it."""
    given = config(tmp_path / "run", epochs=1, global_batch_size=1, sync_every=4)
    result = sparkdl.fit(one_input(still_averaging, bias=1.0), dataset, given, launch=group(2))
    assert weights_of(result)[-1] == pytest.approx([1.0], rel=1e-12)
    found = sparkdl.evaluate(result.model_dir, dataset, "val", launch=group(2))
    assert found["loss"] == pytest.approx(result.history[-1]["val_loss"], rel=1e-9)


def rate_of_one_rank(model, epoch):
    if sparkdl.world().rank == 0:
        model.optimizer.learning_rate = 1.0


def test_rates_that_differ_between_ranks_that_train_alone_are_refused(dataset, tmp_path) -> None:
    """They were averaged."""
    given = config(tmp_path / "run", sync_every=2, callbacks=doing(begin=rate_of_one_rank))
    with pytest.raises(sparkdl.ModelError, match=r"ranks have different learning rates of optimizer '\w+': \[1.0, 0.1"):
        sparkdl.fit(one_input(sgd), dataset, given, launch=group(2))


def test_a_run_stays_marked_when_it_goes_on_with_one_worker(dataset, tmp_path) -> None:
    given = config(tmp_path / "run", sync_every=2, callbacks=doing(str(tmp_path), (1, 0)))
    with pytest.raises(sparkdl.WorkerError, match="interrupted"):
        sparkdl.fit(one_input(sgd), dataset, given, launch=group(2))
    result = sparkdl.fit(one_input(sgd), dataset, given, launch=group(1))
    marks = [record["per_worker"] for record in result.history]
    assert marks == [["weights (sync_every=2)"]] * 2
    assert Signature.read(result.model_dir).inexact == ("weights (sync_every=2)",)


def other_loss(model, epoch):
    if epoch == 2:
        model.compile("sgd", "mae")


def stop(model, epoch):
    if epoch == 2:
        model.stop_training = True


def test_no_epoch_is_the_best_by_a_loss_that_none_was_measured_by(dataset, tmp_path) -> None:
    checkpoint = CheckpointConfig(monitor="val_loss")
    callbacks = doing(begin=other_loss, end=stop)
    given = config(tmp_path / "run", epochs=6, validation_every=2, callbacks=callbacks, checkpoint=checkpoint)
    result = sparkdl.fit(one_input(sgd), dataset, given, launch=group(1))
    assert ["val_loss" in record for record in result.history] == [False, True, False]
    assert result.best_model_dir is None


def two_listed_heads(ds):
    """Outputs in a list, at a rate of 0."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    x = keras.Input((), name="x")
    hidden = keras.layers.Reshape((1,))(x)
    heads = [keras.layers.Dense(2, "softmax", name="kind")(hidden), keras.layers.Dense(1, name="size")(hidden)]
    model = keras.Model([x], heads)
    model.compile(keras.optimizers.SGD(0.0), ["sparse_categorical_crossentropy", "mse"])
    return model


def test_classes_of_a_listed_output_weigh_the_same_on_ranks_that_train_alone(spark, tmp_path) -> None:
    """They failed at the first step."""
    rows = spark.range(40).selectExpr("double(id) AS x", "IF(id % 4 = 0, 'a', 'b') AS kind", "double(id % 7) AS size")
    labels = [Categorical("kind"), Tensor("size")]
    prepared = PrepareConfig(path=str(tmp_path / "data"), features=[Numeric("x")], label=labels)
    dataset = sparkdl.prepare(rows, prepared)
    options = {"epochs": 1, "class_weight": {"kind": {"a": 3.0, "b": 0.5}}, "validation": None, "sync_every": 2}
    one, two = (
        sparkdl.fit(two_listed_heads, dataset, config(tmp_path / str(workers), **options), launch=group(workers))
        for workers in (1, 2)
    )
    assert one.history[0]["loss"] == pytest.approx(two.history[0]["loss"], rel=1e-9)


def test_the_head_that_build_model_begins_with_belongs_to_the_run(dataset, tmp_path) -> None:
    """Another one gave back the run of the first."""
    first = sparkdl.fit(one_input(sgd), dataset, config(tmp_path / "first", epochs=1), launch=group(1))
    options = {"epochs": 1, "initial_model": first.model_dir, "initial_weights": "matching"}
    given = config(tmp_path / "run", **options)
    sparkdl.fit(one_input(sgd, head="other", bias=0.0), dataset, given, launch=group(1))
    with pytest.raises(sparkdl.CheckpointError, match="holds a run that began otherwise"):
        sparkdl.fit(one_input(sgd, head="other", bias=5.0), dataset, given, launch=group(1))


def traced(factor):
    import tensorflow as tf

    @tf.function
    def augment(inputs, seed):
        return {**inputs, "age": inputs["age"] * factor}

    return augment


def test_the_code_of_a_tf_function_belongs_to_the_run(dataset, tmp_path) -> None:
    """Another one gave back the run of the first, and went on with it."""
    sparkdl.fit(one_input(sgd), dataset, config(tmp_path / "run", epochs=1, augment=traced(1.0)), launch=group(1))
    for epochs in (1, 2):
        given = config(tmp_path / "run", epochs=epochs, augment=traced(-3.0))
        with pytest.raises(sparkdl.CheckpointError, match="augment"):
            sparkdl.fit(one_input(sgd), dataset, given, launch=group(1))


def saving(**options):
    def make():
        import keras

        return [keras.callbacks.ModelCheckpoint("epoch-{epoch}-{val_loss:.2f}.keras", **options)]

    return make


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_every": 2, "callbacks": saving()}, "validation_every=2 must be 1 with Keras' ModelCheckpoint"),
        ({"sync_every": 2, "callbacks": saving(save_freq=3)}, "sync_every must be 1 with Keras' ModelCheckpoint"),
    ],
)
def test_models_that_keras_would_save_wrongly_are_refused(dataset, tmp_path, options, message) -> None:
    with pytest.raises(sparkdl.ConfigError, match=message):
        sparkdl.fit(one_input(sgd), dataset, config(tmp_path / "run", **options), launch=group(2))
