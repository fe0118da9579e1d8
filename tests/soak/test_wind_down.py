"""A run that is asked to end, again and again, has the numbers of one that was not.

.venv/bin/python -m pytest tests/soak/test_wind_down.py -s
"""

import random
import re
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from sparkdl import CheckpointConfig, LaunchConfig, TrainConfig
from sparkdl.launch import wind_down

pytestmark = pytest.mark.timeout(1800)
LAUNCH = LaunchConfig(num_workers=2, local=True, log="errors")
STEPS = 15  # of an epoch
EPOCHS = 4
FIRST_SEED = 100


def build_model(ds):
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = keras.layers
    widths = [layers.Dense(32, activation="relu"), layers.Dense(len(ds.classes), activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *widths])
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def marked(folder):
    """A callback that leaves a file for each step of rank 0, and pauses."""
    import time

    import keras

    class Mark(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if sparkdl.world().rank == 0:
                (Path(folder) / f"{self.epoch * STEPS + batch}").touch()
            time.sleep(0.1)

    return [Mark()]


def config(run_dir, marks) -> TrainConfig:
    checkpoint = CheckpointConfig(every_epochs=EPOCHS)
    callbacks = partial(marked, str(marks))
    return TrainConfig(
        run_dir=str(run_dir), epochs=EPOCHS, global_batch_size=100, callbacks=callbacks, checkpoint=checkpoint
    )


def ask_after(marks: Path, step: int, over: threading.Event) -> None:
    while not over.wait(0.005):
        if (marks / f"{step}").exists():
            wind_down.ask()
            return


def test_a_run_that_ends_when_asked_and_goes_on_is_the_undisturbed_one(digits_dataset, tmp_path) -> None:
    whole, marks = tmp_path / "whole-marks", tmp_path / "marks"
    whole.mkdir()
    marks.mkdir()
    undisturbed = sparkdl.fit(build_model, digits_dataset, config(tmp_path / "whole", whole), launch=LAUNCH)
    chance = random.Random(FIRST_SEED)
    # Two steps before an epoch's end the agreement falls on its last step.
    asked = sorted({STEPS - 3, STEPS - 2, 2 * STEPS - 1, *chance.sample(range(2 * STEPS, EPOCHS * STEPS - 4), 3)})
    for step in asked:
        over = threading.Event()
        thread = threading.Thread(target=ask_after, args=(marks, step, over))
        thread.start()
        with pytest.raises(sparkdl.LaunchError, match="was asked to end and has a checkpoint before epoch") as error:
            sparkdl.fit(build_model, digits_dataset, config(tmp_path / "run", marks), launch=LAUNCH)
        over.set()
        thread.join()
        epoch, place = map(int, re.search(r"epoch (\d+), step (\d+)", str(error.value)).groups())
        print(f"asked in step {step}: ended before {(epoch - 1) * STEPS + place}", flush=True)
        assert step < (epoch - 1) * STEPS + place <= step + 5
    result = sparkdl.fit(build_model, digits_dataset, config(tmp_path / "run", marks), launch=LAUNCH)
    for name in ("loss", "val_loss", "accuracy"):
        expected = [record[name] for record in undisturbed.history]
        np.testing.assert_allclose([record[name] for record in result.history], expected, rtol=0, atol=1e-9)
