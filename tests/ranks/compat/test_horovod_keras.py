"""Programs for Horovod's Keras interface run as they are; its callbacks, saved models and errors."""

import importlib.util
import json
import os
import re
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version

import sparkdl
from groups import local_group
from paths import ROOT
from sparkdl.compat import HorovodRunner
from sparkdl.errors import ConfigError

DOC = (ROOT / "docs" / "launch.md").read_text()

# Whether Keras has MultiOptimizer.
OF_SEVERAL = Version(version("keras")) >= Version("3.13")


def images(rank: int, rows: int = 400):
    """Rows that look like MNIST's, another share for each rank."""
    rng = np.random.default_rng(rank)
    labels = rng.integers(0, 10, rows)
    pixels = rng.integers(0, 64, (rows, 28, 28, 1))
    pixels[np.arange(rows), labels * 2] += 191
    return pixels.astype("uint8"), labels


def get_model(num_classes):
    from tensorflow.keras import models
    from tensorflow.keras.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D

    model = models.Sequential()
    model.add(Conv2D(4, kernel_size=(3, 3), activation="relu", input_shape=(28, 28, 1)))
    model.add(MaxPooling2D(pool_size=(2, 2)))
    model.add(Dropout(0.25))
    model.add(Flatten())
    model.add(Dense(num_classes, activation="softmax"))
    return model


# As Databricks' guide has it, https://docs.databricks.com/machine-learning/train-model/distributed-training/
# mnist-tensorflow-keras.html, with rows of our own.
def train_hvd(checkpoint_path, learning_rate=0.1):
    import horovod.tensorflow.keras as hvd
    import tensorflow as tf
    from tensorflow import keras

    hvd.init()
    gpus = tf.config.experimental.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        tf.config.experimental.set_visible_devices(gpus[hvd.local_rank()], "GPU")

    x_train, y_train = images(hvd.rank())
    x_train = x_train.astype("float32") / 255
    y_train = keras.utils.to_categorical(y_train, 10)
    model = get_model(10)
    optimizer = keras.optimizers.Adadelta(learning_rate=learning_rate * hvd.size())
    optimizer = hvd.DistributedOptimizer(optimizer)
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
    ]
    if hvd.rank() == 0:
        callbacks.append(keras.callbacks.ModelCheckpoint(checkpoint_path, monitor="loss", save_best_only=True))
    history = model.fit(x_train, y_train, batch_size=50, callbacks=callbacks, epochs=2, verbose=2 * (hvd.rank() == 0))
    return history.history, [np.array(weight) for weight in model.get_weights()]


def test_the_program_of_databricks_runs_as_it_is(tmp_path) -> None:
    import keras

    path = str(tmp_path / "checkpoint.keras")
    history, weights = HorovodRunner(np=-2).run(train_hvd, checkpoint_path=path, learning_rate=0.5)
    assert history["loss"][1] < history["loss"][0] and len(history["accuracy"]) == 2
    model = keras.models.load_model(path)  # here is plain Keras
    assert type(model.optimizer) is keras.optimizers.Adadelta
    assert float(model.optimizer.learning_rate) == 1.0 and int(model.optimizer.iterations) == 16
    assert "apply" not in vars(model.optimizer)
    for saved, last in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(saved, last)


# As Horovod's examples/tensorflow2/tensorflow2_keras_mnist.py calls it, with fewer steps and rows of our own.
def horovods_example():
    import horovod.tensorflow.keras as hvd
    import tensorflow as tf

    hvd.init()
    pixels, labels = images(hvd.rank())
    dataset = tf.data.Dataset.from_tensor_slices((tf.cast(pixels / 255.0, tf.float32), tf.cast(labels, tf.int64)))
    dataset = dataset.repeat().shuffle(10000).batch(128)
    mnist_model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(4, [3, 3], activation="relu"),
            tf.keras.layers.MaxPooling2D(pool_size=(2, 2)),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(10, activation="softmax"),
        ]
    )
    scaled_lr = 0.001 * hvd.size()
    opt = tf.optimizers.Adam(scaled_lr)
    opt = hvd.DistributedOptimizer(opt, backward_passes_per_step=1, average_aggregated_gradients=True)
    mnist_model.compile(
        loss=tf.losses.SparseCategoricalCrossentropy(),
        optimizer=opt,
        metrics=["accuracy"],
        experimental_run_tf_function=False,
    )
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
        hvd.callbacks.LearningRateWarmupCallback(initial_lr=scaled_lr, warmup_epochs=3, verbose=1),
    ]
    if hvd.rank() == 0:
        callbacks.append(tf.keras.callbacks.ModelCheckpoint("./checkpoint-{epoch}.h5"))
    fitted = mnist_model.fit(
        dataset, steps_per_epoch=6 // hvd.size(), callbacks=callbacks, epochs=3, verbose=hvd.rank() == 0
    )
    return fitted.history, hvd.allgather(mnist_model.get_weights()[-1]).numpy()


def test_horovods_own_example_runs_as_it_is(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    (history, biases), other = sparkdl.run(horovods_example, launch=local_group(2))
    assert history == other[0] and (biases[:10] == biases[10:]).all()
    np.testing.assert_allclose(history["lr"], [0.002 / 2 * (epoch / 3 + 1) for epoch in (1, 2, 3)], rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{epoch}.h5" for epoch in (1, 2, 3)]
    assert "Epoch 3: finished gradual learning rate warmup to 0.002." in capfd.readouterr().err


def test_the_example_of_the_docs_runs(tmp_path) -> None:
    (program,) = [
        text for text in re.findall(r"```python\n(.*?)```", DOC, re.DOTALL) if "horovod.tensorflow.keras" in text
    ]
    names: dict = {}
    x = np.random.default_rng(1).normal(size=(640, 4))
    y = x.sum(axis=1, keepdims=True)
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    program = program.replace("np=4", "np=-2").replace("/shared/", f"{tmp_path}/")
    exec(compile(program, "docs/launch.md", "exec"), names)
    assert 0 < names["loss"] < 0.5 and (tmp_path / "model.keras").exists()


def imported():
    """Import both spellings, and Horovod's own interface for TensorFlow."""
    import horovod.tensorflow as own

    before = [name for name in sys.modules if name.startswith("sparkdl.compat.horovod_keras")]
    assert not hasattr(own, "keras")
    import horovod.keras as old
    import horovod.tensorflow.keras as new
    from horovod.keras.callbacks import MetricAverageCallback
    from horovod.tensorflow.keras import callbacks

    assert old.DistributedOptimizer is new.DistributedOptimizer
    assert callbacks.MetricAverageCallback is MetricAverageCallback is old.callbacks.MetricAverageCallback
    with pytest.raises(ImportError, match="no_such"):
        from horovod.keras import no_such  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        import horovod.keras.no_such  # noqa: F401
    new.init()
    return before, own.__file__, own.DistributedOptimizer.__module__, (new.rank(), new.size()), new.__name__


def test_ranks_import_our_modules_and_horovods_where_it_works() -> None:
    installed = importlib.util.find_spec("horovod.tensorflow")
    for rank, found in enumerate(sparkdl.run(imported, launch=local_group(2))):
        before, file, module, place, name = found
        assert before == [] and file == installed.origin and module == "horovod.tensorflow"
        assert place == (rank, 2) and name == "horovod.tensorflow.keras"


def test_what_the_driver_imports_at_its_top_is_ours_in_ranks() -> None:
    import horovod.tensorflow.keras as hvd

    assert Path(hvd.__file__).parts[-4:] == ("horovod", "tensorflow", "keras", "__init__.py")

    class Own(hvd.callbacks.MetricAverageCallback):
        pass

    def train():
        hvd.init()
        return hvd.DistributedOptimizer.__module__, Own.__mro__[1].__module__

    ours = "sparkdl.compat.horovod_keras"
    assert HorovodRunner(np=-1).run(train) == (f"{ours}.optimizer", f"{ours}.callbacks")


def small_model(seed: int):
    """A model with weights of a rank, and a layer that draws."""
    import keras

    keras.utils.set_random_seed(seed)
    dropout = keras.layers.Dropout(0.5, seed=seed)
    last = keras.layers.Dense(1, name="last", bias_initializer=keras.initializers.Constant(seed))
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), dropout, last])


def with_callbacks():
    """Train with Horovod's callbacks; return what they did."""
    import horovod.keras as hvd
    import keras

    hvd.init()
    model = small_model(hvd.rank())
    x = np.random.default_rng(hvd.rank()).normal(size=(8, 3)).astype("float32")
    y = x.sum(axis=1, keepdims=True) + hvd.rank()
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), "mse", metrics=["mae"])
    kept = model.get_layer("last").bias
    after_batch, own, seen = [], {}, {}

    class AfterBatch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            state = [np.array(one) for one in [*self.model.weights, *self.model.optimizer.variables]]
            after_batch.append((state, np.array(kept)))

    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(1, local_variables=kept),
        AfterBatch(),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: own.update(logs, several=np.arange(2) + hvd.rank())
        ),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(own)),
        hvd.callbacks.MetricAverageCallback(),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.update(logs)),
    ]
    history = model.fit(x, y, batch_size=4, validation_data=(x, y), callbacks=callbacks, verbose=0).history
    dropout_seeds = [np.array(layer.seed_generator.state) for layer in model.layers if hasattr(layer, "seed_generator")]
    return after_batch, own, seen, history, dropout_seeds


def test_the_callbacks_broadcast_and_average() -> None:
    first, second = sparkdl.run(with_callbacks, launch=local_group(2))
    (state, bias), (other, other_bias) = first[0][0], second[0][0]
    # The last bias stays each rank's own: weights are kernel, bias, kernel, bias, in this order.
    same = [np.array_equal(a, b) for a, b in zip(state, other, strict=True)]
    assert [index for index, equal in enumerate(same) if not equal] == [3]
    assert len(state) == 4 + 2 + 8 and not np.array_equal(bias, other_bias)
    assert not np.array_equal(first[4][0], second[4][0])  # what dropout draws from
    assert set(first[1]) == {"loss", "mae", "val_loss", "val_mae", "several"}
    for name in first[1]:
        mean = (np.asarray(first[1][name]) + np.asarray(second[1][name])) / 2
        for _, _, seen, history, _ in (first, second):
            np.testing.assert_allclose(seen[name], mean, rtol=1e-12)
            np.testing.assert_allclose(history[name][0], mean, rtol=1e-12)
    assert first[1]["loss"] != second[1]["loss"]


def with_a_late_layer():
    """Train with a layer of each rank's own that has no variables yet when the optimizer is wrapped."""
    import horovod.keras as hvd
    import keras

    hvd.init()
    keras.utils.set_random_seed(1)
    own, shared = keras.layers.Dense(2), keras.layers.Dense(1)
    model = keras.Sequential([own, shared])
    model.compile(hvd.PartialDistributedOptimizer(keras.optimizers.SGD(0.1), local_layers=own), "mse")
    model.fit(np.ones((4, 1)), np.full((4, 1), hvd.rank()), verbose=0)
    return [np.array(weight) for weight in (*own.weights, *shared.weights)]


def test_a_layer_that_is_built_later_stays_each_ranks_own() -> None:
    first, second = sparkdl.run(with_a_late_layer, launch=local_group(2))
    assert [np.array_equal(a, b) for a, b in zip(first, second, strict=True)] == [False, False, True, True]


def other_logs():
    import horovod.tensorflow.keras as hvd
    import keras

    hvd.init()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD()), "mse")
    x = np.zeros((4, 1))
    validation = (x, x) if hvd.rank() == 0 else None
    model.fit(x, x, validation_data=validation, callbacks=[hvd.callbacks.MetricAverageCallback()], verbose=0)


def test_ranks_with_other_metrics_are_an_error() -> None:
    with pytest.raises(ConfigError, match="rank 1 logs 'loss' and rank 0 'loss, val_loss'; give all ranks the same"):
        sparkdl.run(other_logs, launch=local_group(2))


ROWS, EPOCHS = 12, 4
RATES = {
    "warm-up": lambda hvd: [hvd.callbacks.LearningRateWarmupCallback(None, warmup_epochs=2)],
    "warm-up as given": lambda hvd: [hvd.callbacks.LearningRateWarmupCallback(0.04, 2, False, 3)],
    "steps": lambda hvd: [
        hvd.callbacks.LearningRateWarmupCallback(initial_lr=0.1, warmup_epochs=1),
        hvd.callbacks.LearningRateScheduleCallback(initial_lr=0.1, multiplier=0.5, start_epoch=1, end_epoch=3),
        hvd.callbacks.LearningRateScheduleCallback(0.1, lambda epoch: 0.1 / epoch, start_epoch=3),
    ],
}


def optimizers():
    import keras

    return {
        "sgd": keras.optimizers.SGD(0.1, momentum=0.9),
        "rmsprop": keras.optimizers.RMSprop(0.1, momentum=0.5),
        "adam": keras.optimizers.Adam(0.1),
    }


def line():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2))
    return x, x.sum(axis=1, keepdims=True)


def line_model():
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])


def with_rates():
    """Train with each schedule and optimizer; return the rates of batches, the logged ones, and the weights."""
    import horovod.tensorflow.keras as hvd
    import keras

    hvd.init()
    found = {}
    for schedule, make in RATES.items():
        for name in optimizers():
            model, rates = line_model(), []
            optimizer = optimizers()[name]
            model.compile(hvd.DistributedOptimizer(optimizer), "mse")
            watch = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs, o=optimizer, r=rates: r.append(float(o.learning_rate.numpy()))
            )
            options = {"batch_size": 4, "shuffle": False, "epochs": EPOCHS, "verbose": 0}
            logged = model.fit(*line(), callbacks=[*make(hvd), watch], **options).history["lr"]
            found[schedule, name] = rates, logged, [np.array(weight) for weight in model.get_weights()]
            assert getattr(optimizer, "momentum", 0) == {"sgd": 0.9, "rmsprop": 0.5, "adam": 0}[name]
    return found


def horovods_rate(schedule: str, epoch: int, batch: int, size: int) -> float:
    """The rate of one batch, by Horovod's formulas."""

    def warm_up(rate, epochs):
        at = epoch + batch / 3 + 1 / 3
        return rate / size * (at * (size - 1) / epochs + 1)

    if schedule != "steps":
        rate = 0.04 if schedule == "warm-up as given" else 0.1
        return warm_up(rate, 2) if epoch < 2 else rate
    if epoch < 1:
        return warm_up(0.1, 1)
    return 0.1 * 0.5 ** (epoch - 1) if epoch < 3 else 0.1 * 0.1 / epoch


def by_hand(name: str, rates: list[float], corrected: bool):
    """Train with these rates, one for each batch, with Horovod's momentum; return the weights.

    Horovod multiplies the momentum of a batch by the ratio of its rate to the one before.
    """
    import keras
    import tensorflow as tf

    model, optimizer, (x, y) = line_model(), optimizers()[name], line()
    momentum, before = getattr(optimizer, "momentum", 0.0), 0.1
    velocities = [np.zeros(weight.shape) for weight in model.trainable_variables]
    for step, rate in enumerate(rates):
        ratio, before = rate / before if corrected else 1.0, rate
        rows = slice(step % 3 * 4, step % 3 * 4 + 4)
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((model(x[rows]) - y[rows]) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        if name == "sgd":  # Keras rounds SGD's momentum to float32
            momentum = float(np.float32(momentum))
            velocities = [momentum * ratio * v - rate * np.array(g) for v, g in zip(velocities, gradients, strict=True)]
            for weight, velocity in zip(model.trainable_variables, velocities, strict=True):
                weight.assign_add(velocity)
            continue
        optimizer.learning_rate = rate
        if momentum:
            optimizer.momentum = momentum * ratio
        optimizer.apply(gradients, model.trainable_variables)
    return model.get_weights()


def test_rates_and_momentum_are_those_of_horovods_formulas() -> None:
    size = 2
    found = sparkdl.run(with_rates, launch=local_group(size))[0]
    for (schedule, name), (rates, logged, weights) in found.items():
        wanted = [horovods_rate(schedule, epoch, batch, size) for epoch in range(EPOCHS) for batch in range(3)]
        np.testing.assert_allclose(rates, wanted, rtol=1e-12, err_msg=f"{schedule} {name}")
        np.testing.assert_allclose(logged, wanted[2::3], rtol=1e-12)
        for got, weight in zip(weights, by_hand(name, wanted, schedule != "warm-up as given"), strict=True):
            np.testing.assert_allclose(got, weight, rtol=0, atol=1e-9, err_msg=f"{schedule} {name}")


class Slow:
    """Make the user's optimizer class where Keras is imported."""

    @staticmethod
    def optimizer():
        import keras

        class SlowSGD(keras.optimizers.SGD):
            pass

        return SlowSGD


def saved(folder):
    """Train, save, and train on; the weights at the end."""
    import horovod.tensorflow.keras as hvd
    import keras

    hvd.init()
    ends = {}
    for name, optimizer in (("adam", keras.optimizers.Adam(0.1)), ("own", Slow.optimizer()(0.1, momentum=0.9))):
        model = line_model()
        # Keras saves "mse" into a .h5 file in a form that it does not read.
        model.compile(hvd.DistributedOptimizer(optimizer), keras.losses.MeanSquaredError())
        model.fit(*line(), batch_size=4, shuffle=False, verbose=0)
        if hvd.rank() == 0:
            model.save(f"{folder}/{name}.keras")
            model.save(f"{folder}/{name}.h5")
        hvd.allreduce(0.0)
        x, y = line()
        model.fit(x + hvd.rank(), y, batch_size=4, shuffle=False, verbose=0)
        ends[name] = [np.array(weight) for weight in model.get_weights()]
    return ends


def loaded(folder):
    """Load what `saved` has saved, and train on; the weights at the end."""
    import horovod.tensorflow.keras as hvd
    import keras

    hvd.init()
    keras.config.set_floatx("float64")
    ends = {}
    for file in sorted(os.listdir(folder)):
        slow = Slow.optimizer()
        model = hvd.load_model(
            f"{folder}/{file}",
            custom_optimizers=[slow],
            custom_objects={"Unused": object},
            compression=hvd.Compression.none,
        )
        kind = slow if file.startswith("own") else keras.optimizers.Adam
        assert type(model.optimizer) is kind and int(model.optimizer.iterations) == 3
        x, y = line()
        model.fit(x + hvd.rank(), y, batch_size=4, shuffle=False, verbose=0)
        ends[file] = [np.array(weight) for weight in model.get_weights()]
    return ends


def under_the_old_name(path: Path, target: Path) -> None:
    """Copy a .keras file; the copy's optimizer has the class name that old versions of Horovod gave it."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename == "config.json":
                config = json.loads(data)
                optimizer = config["compile_config"]["optimizer"]
                optimizer.update(class_name="DistributedAdam", module=None, registered_name="DistributedAdam")
                data = json.dumps(config)
            new.writestr(item, data)


def test_a_saved_model_trains_on_as_if_it_had_not_been_saved(tmp_path) -> None:
    import h5py
    import keras

    ends = sparkdl.run(saved, str(tmp_path), launch=local_group(2))[0]
    plain = keras.models.load_model(tmp_path / "adam.keras")
    assert type(plain.optimizer) is keras.optimizers.Adam and "apply" not in vars(plain.optimizer)
    under_the_old_name(tmp_path / "adam.keras", tmp_path / "adam-old.keras")
    (tmp_path / "adam-old.h5").write_bytes((tmp_path / "adam.h5").read_bytes())
    with h5py.File(tmp_path / "adam-old.h5", "r+") as file:
        config = json.loads(file.attrs["training_config"])
        config["optimizer_config"] = {"class_name": "DistributedAdam", "config": config["optimizer_config"]["config"]}
        file.attrs["training_config"] = json.dumps(config)
    ranks = sparkdl.run(loaded, str(tmp_path), launch=local_group(2))
    assert len(ranks[0]) == 6
    for rank in ranks:
        for file, weights in rank.items():
            for got, wanted in zip(weights, ends[re.match("[a-z]+", file)[0]], strict=True):
                np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9, err_msg=file)


def refusals():
    """Call what is refused; return the messages."""
    import h5py
    import horovod.tensorflow.keras as hvd
    import keras
    import tensorflow as tf

    from sparkdl.train.checks.check_model import check_model

    hvd.init()
    sgd, adam = keras.optimizers.SGD, keras.optimizers.Adam
    wrap = hvd.DistributedOptimizer
    x = np.zeros((4, 1))

    def fit(optimizer=None, callback=None, data=None, **options):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        if options.pop("mixed", False):
            model.dtype_policy = keras.DTypePolicy("mixed_float16")
        model.compile(optimizer or sgd(), "mse")
        model.fit(*(data or (x, x)), callbacks=[callback] if callback else [], verbose=0, **options)

    def sparse():
        embedding = keras.layers.Embedding(3, 1)
        model = keras.Sequential([keras.Input((1,), dtype="int32"), embedding, keras.layers.Flatten()])
        model.compile(wrap(sgd(), backward_passes_per_step=2), "mse")
        model.fit(x.astype("int32"), x, verbose=0)

    def within_sparkdl():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(wrap(adam()), "mse")
        check_model(model)

    def other_keras():
        path = os.path.join(tempfile.mkdtemp(), "model.h5")
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(adam(), keras.losses.MeanSquaredError())
        model.fit(x, x, verbose=0)
        model.save(path)
        with h5py.File(path, "r+") as file:
            attributes = file["optimizer_weights"].attrs
            attributes["weight_names"] = attributes["weight_names"][:-1]
        hvd.load_model(path)

    endless = tf.data.Dataset.from_generator(lambda: iter([(x, x)]), output_signature=(tf.TensorSpec((4, 1)),) * 2)
    warm_up, schedule = hvd.callbacks.LearningRateWarmupCallback, hvd.callbacks.LearningRateScheduleCallback
    decayed = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    calls = {
        "name of an optimizer": lambda: wrap("adam"),
        "wrapped twice": lambda: wrap(wrap(adam())),
        "wrapped within": lambda: wrap(keras.optimizers.LossScaleOptimizer(wrap(adam()))),
        "name": lambda: wrap(adam(), name=3),
        "compression": lambda: wrap(adam(), compression="fp16"),
        "op": lambda: wrap(adam(), op=hvd.Adasum),
        "predivide": lambda: wrap(adam(), gradient_predivide_factor=0),
        "predivided sum": lambda: wrap(adam(), gradient_predivide_factor=2.0, op=hvd.Sum),
        "process set": lambda: wrap(adam(), process_set=[0]),
        "groups": lambda: wrap(adam(), groups=0),
        "groups of names": lambda: wrap(adam(), groups=["a"]),
        "groups twice": lambda: wrap(adam(), groups=2, num_groups=2),
        "passes": lambda: wrap(adam(), backward_passes_per_step=0),
        "passes of Keras": lambda: wrap(adam(gradient_accumulation_steps=2), backward_passes_per_step=2),
        "passes of a loss scale": lambda: wrap(keras.optimizers.LossScaleOptimizer(adam()), backward_passes_per_step=2),
        "passes in float16": lambda: fit(wrap(adam(), backward_passes_per_step=2), mixed=True),
        "sparse passes": sparse,
        "layers": lambda: hvd.PartialDistributedOptimizer(adam(), local_layers=["dense"]),
        "all variables": lambda: hvd.broadcast_global_variables(0),
        "elastic": lambda: hvd.elastic.run,
        "elastic state": lambda: hvd.elastic.KerasState,
        "legacy": lambda: hvd.load_model("m.keras", legacy_opts=True),
        "optimizer classes": lambda: hvd.load_model("m.keras", custom_optimizers=["Adam"]),
        "another Keras": other_keras,
        "best model": lambda: hvd.callbacks.BestModelCheckpoint(monitor="loss"),
        "local variables": lambda: hvd.callbacks.BroadcastGlobalVariablesCallback(0, local_variables=["bias"]),
        "root": lambda: fit(callback=hvd.callbacks.BroadcastGlobalVariablesCallback(1)),
        "rate of a schedule": lambda: fit(sgd(decayed), warm_up(0.1)),
        "rates of several": lambda: fit(several(keras), warm_up(0.1)),
        "steps": lambda: fit(callback=warm_up(0.1), data=(endless,)),
        "momentum": lambda: fit(keras.optimizers.Muon(0.1), schedule(0.1, 0.5)),
        "momentum from nothing": lambda: fit(sgd(0.1, momentum=0.5), schedule(0.1, float), epochs=2),
        "a log": lambda: hvd.callbacks.MetricAverageCallback().on_epoch_end(0, {"name": "text"}),
        "sparkdl.fit": within_sparkdl,
    }
    messages = {}
    for name, call in calls.items():
        try:
            call()
            messages[name] = "nothing was raised"
        except sparkdl.SparkDLError as error:
            messages[name] = str(error)
        except Exception as error:
            messages[name] = f"{type(error).__name__}: {error}"
    return messages


def several(keras):
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1)))


REFUSED = {
    "name of an optimizer": "optimizer='adam' must be an optimizer of Keras 3, such as keras.optimizers.Adam()",
    "wrapped twice": "is wrapped by hvd.DistributedOptimizer already, which returns the optimizer that it is given",
    "wrapped within": "is wrapped by hvd.DistributedOptimizer already",
    "name": "name=3 must be a text or None",
    "compression": "compression='fp16' must be hvd.Compression.none or hvd.Compression.fp16",
    "op": "must be hvd.Average or hvd.Sum",
    "predivide": "gradient_predivide_factor=0 must be a number above 0",
    "predivided sum": "gradient_predivide_factor=2.0 must be 1.0 with op=hvd.Sum; use op=hvd.Average",
    "process set": "process_set=[0] must be an hvd.ProcessSet",
    "groups": "groups=0 must be a whole number above 0 or a list of lists of variables",
    "groups of names": "groups=['a'] must be a whole number above 0 or a list of lists of variables",
    "groups twice": "num_groups=2 must be 0 where groups is given",
    "passes": "backward_passes_per_step=0 must be a whole number above 0",
    "passes of Keras": "must be 1 where the optimizer itself has gradient_accumulation_steps=2",
    "passes of a loss scale": "backward_passes_per_step=2 must be 1 for a LossScaleOptimizer",
    "passes in float16": "backward_passes_per_step=2 must be 1 with a LossScaleOptimizer",
    "sparse passes": "sparse_as_dense=False must be True with backward_passes_per_step=2: the gradient of embeddings",
    "layers": "local_layers=['dense'] must be Keras layers",
    "all variables": "use hvd.callbacks.BroadcastGlobalVariablesCallback(0) in model.fit",
    "elastic": "hvd.elastic.run is not supported: the ranks of a launch neither come nor go",
    "elastic state": "hvd.elastic.KerasState is not supported",
    "legacy": "legacy_opts=True must be False: Keras 3 has no legacy optimizers",
    "optimizer classes": "custom_optimizers=['Adam'] must be optimizer classes of Keras 3",
    "another Keras": "model.h5' holds the optimizer's state in the form of another version of Keras",
    "best model": "use keras.callbacks.ModelCheckpoint(filepath, save_best_only=True)",
    "local variables": "local_variables='bias' must be variables of Keras or TensorFlow",
    "root": "root_rank=1 must be from 0 to 0, the last rank",
    "rate of a schedule": "must be a number for LearningRateWarmupCallback, which sets it",
    "rates of several": "must be a number for LearningRateWarmupCallback, which sets it",
    "steps": "steps_per_epoch=None of LearningRateWarmupCallback must be the batches of an epoch",
    "momentum": "momentum_correction=True must be False for optimizer 'muon'",
    "momentum from nothing": "momentum_correction=True must be False for a learning rate that was 0",
    "a log": "name='text' must be a number or an array of numbers",
    "sparkdl.fit": "is wrapped by hvd.DistributedOptimizer; sparkdl.fit sums gradients itself",
}


@pytest.fixture(scope="module")
def refused():
    (messages,) = sparkdl.run(refusals, launch=local_group(1))
    return messages


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(refused, name) -> None:
    if name == "rates of several" and not OF_SEVERAL:
        pytest.skip("Keras 3.12 has no MultiOptimizer")
    assert set(refused) == set(REFUSED)
    assert REFUSED[name] in refused[name]


def with_values():
    """Reduce, gather and send values."""
    import horovod.tensorflow.keras as hvd
    import keras

    hvd.init()
    own = hvd.rank() + 1.0
    variable = keras.Variable(np.full(2, own), dtype="float64")
    found = [
        hvd.allreduce(own),
        hvd.allreduce(own, name="total", op=hvd.Sum),
        hvd.allreduce([own, 1.0], average=False, prescale_factor=2.0, postscale_factor=3.0),
        hvd.allreduce(variable, compression=hvd.Compression.fp16),
        hvd.allgather(np.full((hvd.rank() + 1, 1), hvd.rank())),
        hvd.broadcast(own, root_rank=1, name="sent"),
        hvd.reducescatter(np.arange(4.0) * own),
    ]
    return [np.asarray(value).tolist() for value in found]


def test_values_are_reduced_gathered_and_sent() -> None:
    first, second = sparkdl.run(with_values, launch=local_group(2))
    assert first[:6] == second[:6] == [1.5, 3.0, [18.0, 12.0], [1.5, 1.5], [[0], [1], [1]], 2.0]
    assert (first[6], second[6]) == ([0.0, 1.5], [3.0, 4.5])
