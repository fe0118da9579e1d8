"""What a run does around its steps: stop together, refuse by name, leave a model and a history."""

import contextlib
import csv
import json
import os
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import sparkdl
from groups import local_group
from sparkdl import CheckpointConfig, CheckpointError, ConfigError, LaunchConfig, ModelError, TrainConfig, WorkerError

TWO = local_group(2)


def small_model(ds):
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(len(ds.classes), activation="softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def config(tmp_path, **options) -> TrainConfig:
    return TrainConfig(**{"run_dir": str(tmp_path / "run"), "epochs": 2, "global_batch_size": 200, **options})


def stop_on_rank_1():
    import keras

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if sparkdl.world().rank == 1 and batch == 2:
                self.model.stop_training = True

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.last = batch

        def on_train_end(self, logs=None):
            with open(f"{sparkdl.world().rank}.steps", "w") as file:
                file.write(str(self.last))

    class Scheduling(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            threads = {int(name): os.sched_getscheduler(int(name)) for name in os.listdir("/proc/self/task")}
            with open(f"{sparkdl.world().rank}.threads", "w") as file:
                json.dump({"main": threads.pop(os.getpid()), "others": list(threads.values())}, file)

    return [Stop(), Count(), Scheduling()]


def test_one_ranks_stop_stops_all_after_the_same_step(digits_dataset, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = sparkdl.fit(small_model, digits_dataset, config(tmp_path, callbacks=stop_on_rank_1, epochs=5), launch=TWO)
    assert [(tmp_path / f"{rank}.steps").read_text() for rank in (0, 1)] == ["3", "3"]
    assert len(result.history) == 1
    for rank in (0, 1):
        threads = json.loads((tmp_path / f"{rank}.threads").read_text())
        assert threads["main"] == os.SCHED_BATCH
        # TensorFlow's, Horovod's and the feed's; those of libraries that start threads at their import are others.
        assert threads["others"].count(os.SCHED_BATCH) > threads["others"].count(os.SCHED_OTHER)


def own_rate_on_rank_1():
    import keras

    def set_rate(epoch, logs):
        if epoch == 1 and sparkdl.world().rank == 1:
            callback.model.optimizer.learning_rate.assign(0.5)

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=set_rate)
    return [callback]


def test_ranks_that_no_longer_train_the_same_model_are_an_error(digits_dataset, tmp_path) -> None:
    message = "after epoch 2 ranks have different weights: the norm of '.*' is .* on rank 0 and .* on rank 1"
    with pytest.raises(ModelError, match=message):
        sparkdl.fit(small_model, digits_dataset, config(tmp_path, callbacks=own_rate_on_rank_1, epochs=4), launch=TWO)


def early_stopping():
    import keras

    rank = sparkdl.world().rank
    return [
        keras.callbacks.EarlyStopping("val_loss", patience=0, mode="max"),
        keras.callbacks.LearningRateScheduler(lambda e: 0.5 / (e + 1)),
        keras.callbacks.ModelCheckpoint(f"best-{rank}.keras", monitor="val_accuracy", save_best_only=True),
        keras.callbacks.CSVLogger(f"log-{rank}.csv"),
        keras.callbacks.TensorBoard(f"board-{rank}"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.ReduceLROnPlateau("val_loss"),
    ]


def test_keras_callbacks_see_the_reduced_logs_and_write_on_rank_0(digits_dataset, tmp_path, monkeypatch) -> None:
    import keras

    monkeypatch.chdir(tmp_path)
    result = sparkdl.fit(small_model, digits_dataset, config(tmp_path, callbacks=early_stopping, epochs=9), launch=TWO)
    # val_loss falls, so mode="max" stops after the second epoch.
    assert [record["lr"] for record in result.history] == [0.5, 0.25]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "best-0.keras", "log-0.csv", "board-0"}
    with open("log-0.csv", newline="") as file:
        logged = [float(row["val_loss"]) for row in csv.DictReader(file)]
    assert logged == pytest.approx([record["val_loss"] for record in result.history], rel=1e-6)
    assert keras.saving.load_model("best-0.keras").compiled


def scalars_of_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The steps and values of each scalar in the one event file of a folder."""
    import tensorflow as tf

    (file,) = folder.iterdir()
    found: dict[str, list[tuple[int, float]]] = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    return found


@pytest.fixture(scope="module")
def run(digits_dataset, tmp_path_factory) -> sparkdl.TrainResult:
    """A run of two epochs on two ranks."""
    launch = LaunchConfig(num_workers=2, local=True, env={"MY_TOKEN": "a-secret-value"})
    return sparkdl.fit(small_model, digits_dataset, config(tmp_path_factory.mktemp("run")), launch=launch)


def test_a_run_leaves_its_history_and_a_model_that_keras_loads_alone(run, digits) -> None:
    import keras

    assert json.loads((Path(run.model_dir).parent / "history.json").read_text()) == run.history
    loaded = keras.saving.load_model(f"{run.model_dir}/model.keras")
    assert type(loaded.optimizer) is keras.optimizers.Adam and loaded.optimizer.iterations == 2 * 8
    assert float(loaded.optimizer.learning_rate) == pytest.approx(1e-3)
    pixels = [row.pixels for row in digits.limit(50).collect()]
    ours = sparkdl.load_model(run.model_dir).predict({"pixels": pixels})
    assert np.allclose(ours, loaded.predict(np.reshape(pixels, (-1, 8, 8, 1)), verbose=0), rtol=1e-5, atol=1e-6)


def test_a_run_leaves_a_report_without_secrets(run, digits_dataset) -> None:
    run_dir = Path(run.model_dir).parent
    page = (run_dir / "report.html").read_text()
    rows = f"train {digits_dataset.split('train').rows:,}"
    for part in (str(run_dir), "Finished.", "val_accuracy", "small_model", "pixels float32 [8, 8, 1]", rows, "192"):
        assert part in page
    for part in ("TensorFlow", "Horovod", "Keras", "Python", "Spark", "not used", "Hosts", "(2)", "MY_TOKEN"):
        assert part in page
    assert "a-secret-value" not in page
    assert not any("a-secret-value" in path.read_text() for path in run_dir.glob("*.json"))


def test_tensorboard_shows_every_figure_of_the_history(run) -> None:
    folder = Path(run.model_dir).parent / "tensorboard"
    shown = {name: scalars_of_tensorboard(folder / name) for name in ("train", "validation")}
    assert shown["validation"].keys() == {"epoch_loss", "epoch_accuracy"}
    for name, steps in shown["validation"].items():
        assert steps == [(r["epoch"], pytest.approx(r[f"val_{name[6:]}"], rel=1e-6)) for r in run.history]
    figures = [name for name in run.history[0] if name != "epoch" and not name.startswith("val_")]
    assert {"loss", "accuracy", "allreduce_share", "gradient_norm", "rows_per_second", "lr"} <= set(figures)
    assert len(shown["train"]) == len(figures)
    for figure in figures:
        steps = shown["train"]["epoch_learning_rate" if figure == "lr" else f"epoch_{figure}"]
        assert steps == [(r["epoch"], pytest.approx(r[figure], rel=1e-6)) for r in run.history]


def test_a_run_goes_on_where_nothing_can_be_written_for_tensorboard(tmp_path, caplog) -> None:
    from sparkdl.train.rank.callbacks.tensorboard import TensorBoardFiles
    from sparkdl.train.run.record import Recorded

    (tmp_path / "file").touch()
    recorded = Recorded()
    files = TensorBoardFiles(str(tmp_path / "file" / "tensorboard"), recorded)
    files.on_train_begin()
    recorded.history.append({"epoch": 0, "loss": 0.5})
    files.on_epoch_end(0)
    files.on_train_end()
    assert caplog.text.count("file/tensorboard cannot be written: ") == 2


def failing_on_rank_1(ds):
    if sparkdl.world().rank == 1:
        raise KeyError("no such layer")
    time.sleep(100)


def ranks_alive() -> list[psutil.Process]:
    """The processes of ranks, below this process's fork servers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "sparkdl.launch.worker.rank" in " ".join(process.cmdline()) and process.ppid() != os.getpid():
                found.append(process)
    return found


def test_a_failing_build_model_reaches_the_driver_and_leaves_no_process(digits_dataset, tmp_path) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerError, match="rank 1/2.*KeyError: 'no such layer'") as raised:
        sparkdl.fit(failing_on_rank_1, digits_dataset, config(tmp_path), launch=TWO)
    assert raised.value.rank == 1 and "failing_on_rank_1" in raised.value.remote_traceback
    assert time.monotonic() - began < 40
    assert ranks_alive() == []


def not_compiled(ds):
    import keras

    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])


def compiled_with(**options):
    def build_model(ds):
        import keras

        model = not_compiled(ds)
        given = {"optimizer": "sgd", "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
        model.compile(**{**given, **{key: make(keras) for key, make in options.items()}})
        return model

    return build_model


def own_metric(keras):
    class Odd(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="odd")
            self.most = self.add_weight(name="most", initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.most.assign(keras.ops.max(y_pred))

        def result(self):
            return self.most

    return [Odd()]


def own(method: str, **compiled):
    """A model with such a method of its own."""

    def build_model(ds):
        import keras

        own_class = type("Own", (keras.Model,), {method: lambda self, *args, **kwargs: {}})
        inputs = keras.Input((8, 8, 1))
        model = own_class(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs)))
        model.compile("sgd", **{name: make(keras) for name, make in compiled.items()})
        return model

    return build_model


def not_savable(ds):
    import keras

    class Doubled(keras.layers.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, x):
            return x * self.factor

        def get_config(self):
            raise TypeError("no configuration here")

    model = keras.Sequential([keras.Input((8, 8, 1)), Doubled(2), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def root_mean_square(keras):
    return lambda y, p: keras.ops.sqrt(keras.ops.mean(keras.ops.square(keras.ops.cast(y, p.dtype)[:, None] - p)))


def mean_of_row_errors(keras):
    return lambda y, p: keras.ops.mean(keras.ops.square(keras.ops.cast(y, p.dtype)[:, None] - p))


def weighing(ds):
    """A metric of one value for a batch that is to be weighted by rows."""
    import keras

    def batch_error(y, p):
        return keras.ops.mean(keras.ops.square(keras.ops.cast(y, p.dtype)[:, None] - p))

    model = small_model(ds)
    model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=[batch_error])
    return model


def row_error(keras):
    return lambda y, p: keras.ops.mean(keras.ops.square(keras.ops.cast(y, p.dtype)[:, None] - p), axis=-1)


def summing(ds):
    import keras

    class Summing(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.sum(keras.ops.square(x)))
            return x

    model = keras.Sequential([keras.Input((8, 8, 1)), Summing(), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def own_reduction(keras):
    class Halved(keras.losses.SparseCategoricalCrossentropy):
        def __call__(self, y_true, y_pred, sample_weight=None):
            return super().__call__(y_true, y_pred, sample_weight) / 2

    return Halved(reduction="mean_with_sample_weight")


def by_other_names(ds):
    """A model whose inputs are by name, as many as Keras is given, and not the features."""
    import keras

    from sparkdl.train.checks.check_model import build

    inputs = {name: keras.Input(()) for name in ("age", "weight")}
    stacked = keras.ops.stack(list(inputs.values()), axis=1)
    model = keras.Model(inputs, keras.layers.Dense(1)(stacked), name="named")
    model.compile("sgd", "mse")
    build(model, ({"age": np.zeros(2), "height": np.zeros(2)}, np.zeros(2)))


# Trained with class weights: they cannot divide one value of all rows.
CLASS_WEIGHTED = (
    "metric 'batch_error' is not a mean over rows: it gives one value for all rows, and weights of rows",
    "it gives one value for all rows, and weights of rows cannot divide it",
    "loss 'sparse_categorical_crossentropy' is not a mean over rows",
    "accepte",
)


def of_other_labels(ds):
    """A model with several outputs, none of them named after the labels."""
    import keras

    from sparkdl.train.checks.check_model import build

    x = keras.Input((2,))
    model = keras.Model(x, [keras.layers.Dense(1, name="left")(x), keras.layers.Dense(1, name="right")(x)], name="two")
    model.compile("sgd", "mse")
    build(model, (np.zeros((2, 2)), {"left": np.zeros(2), "pay": np.zeros(2)}))


def twice_the_loss():
    import keras

    class Twice(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["twice"] = 2 * logs["loss"]

    return [Twice()]


def test_a_wrong_monitor_is_told_before_the_first_epoch(digits_dataset, tmp_path, caplog) -> None:
    caplog.set_level("INFO", "sparkdl.progress")
    one = local_group(1)
    options = config(tmp_path, checkpoint=CheckpointConfig(monitor="val_acuracy"))
    with pytest.raises(ConfigError, match="did you mean 'val_accuracy'"):
        sparkdl.fit(small_model, digits_dataset, options, launch=one)
    assert "epoch 1/2" not in caplog.text
    undirected = config(tmp_path / "lr", checkpoint=CheckpointConfig(monitor="lr"))
    with pytest.raises(ConfigError, match="monitor='lr' does not say whether .* use checkpoint.mode='min' or 'max'"):
        sparkdl.fit(small_model, digits_dataset, undirected, launch=one)
    # A figure that a callback adds is known after the first epoch only.
    twice = CheckpointConfig(monitor="twice", mode="min")
    added = config(tmp_path / "other", callbacks=twice_the_loss, checkpoint=twice)
    result = sparkdl.fit(small_model, digits_dataset, added, launch=one)
    assert Path(result.best_model_dir).is_dir()
    assert "epoch 1/2" in caplog.text


def refusals(ds, builders):
    """Why each model is refused; in one rank, for starting TensorFlow costs more than all of them."""
    import keras

    from sparkdl.data.feed.sample_rows import sample_rows
    from sparkdl.data.feed.tensors import batch_of
    from sparkdl.model.save import check_savable
    from sparkdl.train.checks.check_model import build, check_model
    from sparkdl.train.exactness.find import find_inexact
    from sparkdl.train.exactness.judge import decide
    from sparkdl.train.rank.built_model import example_of

    batch = batch_of(sample_rows(ds, ds.split("train")), ds.layout)
    reasons = {}
    for name, build_model in builders.items():
        keras.utils.set_random_seed(0)
        try:
            model = build_model(ds)
            check_model(model)
            build(model, example_of(ds))
            check_savable(model)
            findings = find_inexact(model, batch, class_weights=name in CLASS_WEIGHTED)
            decide(findings.inexact, exactness="strict", world_size=2)
            reasons[name] = "accepted"
        except ModelError as error:
            reasons[name] = str(error)
    return reasons


def test_what_cannot_be_exact_is_refused_by_name(digits_dataset) -> None:
    builders = {
        "must return a compiled keras.Model, not str": lambda ds: "no model",
        "is not compiled": not_compiled,
        "has its own fit": own("fit"),
        "has outputs ['left', 'right'] and none for the labels ['pay']": of_other_labels,
        "not features of the dataset: ['weight'], features without an input: ['height']": by_other_names,
        "has reduction='sum', and the model has its own train_step": own(
            "train_step", loss=lambda keras: keras.losses.MeanSquaredError(reduction="sum")
        ),
        "has an ignore_class, and the model has its own train_step": own(
            "test_step", loss=lambda keras: keras.losses.SparseCategoricalCrossentropy(ignore_class=0)
        ),
        "accep": compiled_with(loss=own_reduction),
        "loss 'sparse_categorical_crossentropy' is not a mean over rows": compiled_with(loss=own_reduction),
        "several losses on one output": compiled_with(loss=lambda keras: [row_error(keras), row_error(keras)]),
        "is a mean of the correlations of batches": compiled_with(
            metrics=lambda keras: [keras.metrics.PearsonCorrelation()]
        ),
        "metric 'epoch' has the name of another entry": compiled_with(
            metrics=lambda keras: [keras.metrics.SparseCategoricalAccuracy("epoch")]
        ),
        "metric 'odd' (Odd) is not known to be exact": compiled_with(metrics=own_metric),
        "Keras cannot save": not_savable,
        "loss 'lambda' is not a mean over rows": compiled_with(loss=root_mean_square),
        "add_loss of model 'sequential": summing,
        "metric 'lambda' is not a mean over rows": compiled_with(metrics=lambda keras: [root_mean_square(keras)]),
        "acce": compiled_with(loss=mean_of_row_errors),
        "it gives one value for all rows, and weights of rows cannot divide it": compiled_with(loss=mean_of_row_errors),
        "metric 'batch_error' is not a mean over rows: it gives one value for all rows, and weights of rows": weighing,
        "accepte": compiled_with(loss=row_error),
        "accept": compiled_with(loss=row_error, metrics=lambda keras: [row_error(keras), "accuracy"]),
        "accepted": small_model,
    }
    (reasons,) = sparkdl.run(refusals, digits_dataset, builders, launch=local_group(1))
    for expected, reason in reasons.items():
        assert expected in reason


def test_a_run_dir_is_used_once(digits_dataset, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"already holds 'history.json'"):
        sparkdl.fit(small_model, digits_dataset, config(tmp_path), launch=TWO)


def test_more_workers_than_lanes_are_refused(digits_dataset, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"num_workers=193 but .* has 192 lanes"):
        sparkdl.fit(small_model, digits_dataset, config(tmp_path), launch=LaunchConfig(num_workers=193, local=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"build_model": "mine:build"}, "build_model='mine:build' must be a function"),
        ({"dataset": "data"}, "dataset='data' must be a Dataset; open a path"),
        ({"launch": 2}, "launch=2 must be a LaunchConfig"),
        ({"config": {"epochs": 2}}, "must be a TrainConfig"),
        ({"validation": "vall"}, "validation='vall' is not a split of .*; did you mean 'val'?"),
    ],
)
def test_a_wrong_call_is_refused_before_any_rank(digits_dataset, tmp_path, arguments, message) -> None:
    validation = {"validation": arguments.pop("validation")} if "validation" in arguments else {}
    given = {
        "build_model": small_model,
        "dataset": digits_dataset,
        "config": config(tmp_path, **validation),
        "launch": TWO,
    }
    called = {**given, **arguments}
    with pytest.raises(ConfigError, match=message):
        sparkdl.fit(called["build_model"], called["dataset"], called["config"], launch=called["launch"])
    assert not (tmp_path / "run").exists()


def test_a_dataset_without_label_is_refused(spark, tmp_path) -> None:
    ds = sparkdl.prepare(
        spark.range(9).selectExpr("double(id) as x"), sparkdl.PrepareConfig(path=str(tmp_path / "d"), features=["x"])
    )
    with pytest.raises(ConfigError, match="has no label; prepare it .* TrainConfig.target='inputs'."):
        sparkdl.fit(small_model, ds, config(tmp_path), launch=TWO)


def test_a_model_is_evaluated_only_on_features_encoded_alike(spark, run, tmp_path) -> None:
    other = sparkdl.prepare(
        spark.range(9).selectExpr("double(id) as pixels", "id as digit"),
        sparkdl.PrepareConfig(path=str(tmp_path / "d"), features=["pixels"], label="digit"),
    )
    with pytest.raises(ConfigError, match="not encoded as the model"):
        sparkdl.evaluate(run.model_dir, other, "train", launch=TWO)
