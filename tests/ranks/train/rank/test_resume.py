"""Runs that were interrupted go on as if they had not been."""

import contextlib
import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from groups import local_group
from sparkdl import CheckpointConfig, TrainConfig
from sparkdl.train.run.checkpoint import Position, read_checkpoint
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.spec import TrainSpec

pytestmark = pytest.mark.timeout(300)
EPOCHS = 4


def build_model(ds, rate=0.003):
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 16),
            layers.Flatten(),
            layers.Dense(32),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Dropout(0.2),
            layers.Dense(len(ds.classes), activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def other_model(ds):
    return build_model(ds, rate=0.01)


def callbacks():
    import keras

    return [keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.5, min_delta=10.0)]


def killed_once(folder, epoch, step, rank, number=signal.SIGKILL):
    """Callbacks that kill one rank at one step, the first time it comes there."""

    def make():
        import keras

        class Kill(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch

            def on_train_batch_end(self, batch, logs=None):
                mark = Path(folder) / "killed"
                if sparkdl.world().rank == rank and (self.epoch, batch) == (epoch, step) and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), number)

        return [*callbacks(), Kill()]

    return make


def config(run_dir, **options) -> TrainConfig:
    base = {"epochs": EPOCHS, "global_batch_size": 100, "seed": 3, "callbacks": callbacks}
    base["checkpoint"] = CheckpointConfig(every_steps=5)
    return TrainConfig(run_dir=str(run_dir), **{**base, **options})


def local(workers=2):
    return local_group(workers, log="errors")


def weights_of(result) -> list[np.ndarray]:
    return sparkdl.load_model(result.model_dir).keras_model.get_weights()


def without_times(history):
    return [{k: v for k, v in record.items() if "second" not in k and k != "allreduce_share"} for record in history]


def assert_same(one, other, tolerance=1e-9) -> None:
    for a, b in zip(without_times(one.history), without_times(other.history), strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def uninterrupted(digits_dataset, tmp_path_factory):
    """A run of two ranks that nobody disturbed, its best epoch kept."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    checkpoint = CheckpointConfig(every_steps=5, monitor="val_accuracy")
    return sparkdl.fit(build_model, digits_dataset, config(folder, checkpoint=checkpoint), launch=local())


def test_a_run_keeps_its_last_checkpoints_and_its_best_model(uninterrupted, digits_dataset) -> None:
    run_dir = Path(uninterrupted.model_dir).parent
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert len(names) == 3 and names[-1] == f"epoch-{EPOCHS:05d}-step-00000000"
    best = max(uninterrupted.history, key=lambda record: record["val_accuracy"])
    again = sparkdl.evaluate(uninterrupted.best_model_dir, digits_dataset, "val", launch=local(1))
    assert again["accuracy"] == pytest.approx(best["val_accuracy"], rel=1e-12)


def test_a_finished_run_is_given_back_and_another_one_is_refused(uninterrupted, digits_dataset) -> None:
    run_dir = Path(uninterrupted.model_dir).parent
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    again = sparkdl.fit(build_model, digits_dataset, config(run_dir), launch=local(1))
    assert again.history == uninterrupted.history == json.loads((run_dir / "history.json").read_text())
    with pytest.raises(sparkdl.CheckpointError, match="holds another run: config.seed was 3, is 4"):
        sparkdl.fit(build_model, digits_dataset, config(run_dir, seed=4), launch=local())
    with pytest.raises(sparkdl.CheckpointError, match="already holds"):
        sparkdl.fit(build_model, digits_dataset, config(run_dir, resume="never"), launch=local())
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_without_anything_to_continue_must_is_refused(digits_dataset, tmp_path) -> None:
    with pytest.raises(sparkdl.CheckpointError, match="holds no run to continue"):
        sparkdl.fit(build_model, digits_dataset, config(tmp_path / "run", resume="must"), launch=local())


def test_a_killed_rank_is_restarted_and_changes_nothing(uninterrupted, digits_dataset, tmp_path, caplog) -> None:
    own = killed_once(tmp_path, epoch=1, step=7, rank=1)
    result = sparkdl.fit(build_model, digits_dataset, config(tmp_path / "run", callbacks=own), launch=local())
    assert (tmp_path / "killed").exists()
    assert "died by signal SIGKILL" in caplog.text and "restart 1 of 2" in caplog.text
    assert_same(result, uninterrupted)


def averaging(breaks):
    """Callbacks that change the model where an epoch begins and ends; the run breaks off while there are `breaks`."""

    def make():
        import keras

        class BreakOff(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch

            def on_train_batch_begin(self, batch, logs=None):
                mark = Path(breaks) / f"{self.epoch}-{batch}"
                if mark.exists():
                    mark.unlink()
                    raise InterruptedError

        return [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True),
            BreakOff(),
        ]

    return make


def bfloat16_model(ds):
    import keras

    keras.config.set_dtype_policy("bfloat16")
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(len(ds.classes), activation="softmax")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.8), "sparse_categorical_crossentropy")
    return model


def trained_whole_and_in_pieces(tasks):
    """Histories and weights; in one rank, for starting TensorFlow costs more than all of it."""
    import keras

    from sparkdl.train.entry import train_rank

    def train(task):
        keras.backend.clear_session()
        return without_times(train_rank(task).history)

    whole = train(tasks["whole"])
    for _ in range(2):
        with contextlib.suppress(InterruptedError):
            train(dataclasses.replace(tasks["pieces"], checkpoint=tasks["pieces"].run.latest_checkpoint()))
            raise AssertionError("the run should break off")
    return whole, train(dataclasses.replace(tasks["pieces"], checkpoint=tasks["pieces"].run.latest_checkpoint()))


def test_what_keras_callbacks_left_in_the_model_goes_on(digits_dataset, tmp_path) -> None:
    (tmp_path / "breaks").mkdir()
    for place in ("2-3", "2-8"):  # the checkpoints before: of the epoch's begin, and of its step 5
        (tmp_path / "breaks" / place).touch()
    tasks = {}
    for name, breaks in (("whole", "none"), ("pieces", "breaks")):
        task_config = config(tmp_path / name, callbacks=averaging(tmp_path / breaks))
        run = RunDir(task_config.run_dir)
        tasks[name] = TrainSpec(build_model=bfloat16_model, dataset=digits_dataset, config=task_config, run=run)
    ((whole, pieces),) = sparkdl.run(trained_whole_and_in_pieces, tasks, launch=local(1))
    assert pieces == whole
    one, other = (sparkdl.load_model(task.run.model).keras_model.get_weights() for task in tasks.values())
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def losses_in_tensorboard(folder) -> list[tuple[int, float]]:
    """Step and loss as they lie in the files of all launches."""
    import tensorflow as tf

    events = [event for file in folder.iterdir() for event in tf.compat.v1.train.summary_iterator(str(file))]
    values = [(event.step, value) for event in events for value in event.summary.value]
    return [(step, float(tf.make_ndarray(value.tensor))) for step, value in values if value.tag == "epoch_loss"]


def plain_model(ds):
    """Without layers whose draws depend on the rank."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(len(ds.classes), activation="softmax")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy", "mae"][:1])
    return model


def test_a_run_goes_on_with_other_workers_in_mid_epoch_and_for_more_epochs(digits_dataset, tmp_path) -> None:
    whole = sparkdl.fit(plain_model, digits_dataset, config(tmp_path / "whole", epochs=3), launch=local())
    own = killed_once(tmp_path, epoch=1, step=12, rank=0)
    monitors = [CheckpointConfig(every_steps=5, monitor=monitor, mode="min") for monitor in ("lr", "val_loss")]
    options = config(tmp_path / "run", epochs=2, callbacks=own, max_restarts=0, checkpoint=monitors[0])
    with pytest.raises(sparkdl.WorkerError, match="rank 0/2 on .* died by signal SIGKILL") as raised:
        sparkdl.fit(plain_model, digits_dataset, options, launch=local())
    assert raised.value.kind == "signal"
    checkpoint = read_checkpoint(RunDir(options.run_dir).latest_checkpoint())
    assert checkpoint.position == Position(1, 10)
    report = tmp_path / "run" / "report.html"
    assert "Ended by the failure of a rank (signal)" in report.read_text()
    sparkdl.fit(plain_model, digits_dataset, options, launch=local(3))
    longer = config(tmp_path / "run", epochs=3, resume="must", checkpoint=monitors[1])
    result = sparkdl.fit(plain_model, digits_dataset, longer, launch=local(1))
    assert_same(result, whole)
    assert "Finished." in report.read_text()
    # A rate is smaller than any loss, and no measure for it.
    latest = read_checkpoint(RunDir(options.run_dir).latest_checkpoint())
    assert latest.facts["best"] == pytest.approx(result.history[-1]["val_loss"], rel=1e-12)
    assert Path(result.best_model_dir).exists()
    late = config(tmp_path / "whole", epochs=3, checkpoint=monitors[1])
    assert sparkdl.fit(plain_model, digits_dataset, late, launch=local()).best_model_dir is None
    # The interrupted epoch has the seconds of both launches; the figures of its ranks are of the second one's steps.
    assert result.history[1]["seconds"] > checkpoint.facts["seconds"]["seconds"] > 0
    rows = digits_dataset.split("train").rows
    ranks = json.loads((tmp_path / "run" / "ranks.json").read_text())
    assert [(epoch["epoch"], epoch["first_step"]) for epoch in ranks] == [(0, 0), (1, 10), (2, 0)]
    assert [sum(epoch["rows"]) for epoch in ranks] == [rows, rows - 10 * 100, rows]
    figures = ("hosts", "rows", "seconds", "data_wait_seconds", "allreduce_seconds")
    assert [[len(epoch[name]) for name in figures] for epoch in ranks] == [[2] * 5, [3] * 5, [1] * 5]
    assert [step for step, _ in losses_in_tensorboard(tmp_path / "run" / "tensorboard" / "train")] == [0, 1, 2]
    with pytest.raises(sparkdl.CheckpointError, match="holds the run of another model: model.config"):
        sparkdl.fit(other_model, digits_dataset, config(tmp_path / "run", epochs=4), launch=local(1))


def test_training_starts_from_the_weights_of_a_trained_model(uninterrupted, digits_dataset, tmp_path) -> None:
    options = config(tmp_path / "run", epochs=1, initial_model=uninterrupted.model_dir)
    result = sparkdl.fit(build_model, digits_dataset, options, launch=local(1))
    assert result.history[0]["loss"] < uninterrupted.history[0]["loss"] / 2
    wrong = config(tmp_path / "wrong", epochs=1, initial_model=uninterrupted.model_dir)
    with pytest.raises(sparkdl.ModelError, match="has other weights than build_model's model: variable"):
        sparkdl.fit(plain_model, digits_dataset, wrong, launch=local(1))


def raise_once(folder):
    def make():
        import keras

        def fail(batch, logs):
            raise ValueError("mine")

        return [keras.callbacks.LambdaCallback(on_train_batch_end=fail)]

    return make


def test_the_users_own_exception_is_no_reason_to_restart(digits_dataset, tmp_path, caplog) -> None:
    with pytest.raises(sparkdl.WorkerError, match="ValueError: mine"):
        options = config(tmp_path / "run", callbacks=raise_once(tmp_path))
        sparkdl.fit(plain_model, digits_dataset, options, launch=local(1))
    assert "restart" not in caplog.text
