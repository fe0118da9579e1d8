"""A run that is asked to end, again and again, has the numbers of one that was not.

.venv/bin/python -m pytest tests/soak/test_wind_down.py -s
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from sparkdl import CheckpointConfig, LaunchConfig, TrainConfig
from sparkdl.launch.worker.reaper import WIND_DOWN_SIGNAL

pytestmark = pytest.mark.timeout(1800)
LAUNCH = LaunchConfig(num_workers=2, local=True, log="errors")
STEPS = 15  # of an epoch
EPOCHS = 3
# The step at whose end rank 1 is asked, and where the run then ends: after the next step, on both ranks.
ASKED = {
    5: "epoch 1, step 7",
    STEPS - 2: "epoch 2, step 0",  # the ranks agree in the last step of an epoch
    STEPS - 1 + STEPS: "epoch 3, step 1",
}


def build_model(ds):
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = keras.layers
    widths = [layers.Dense(32, activation="relu"), layers.Dense(len(ds.classes), activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *widths])
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def asking(folder: str, steps: list[int]):
    """A callback with which rank 1 asks itself to end, as the launcher would, once at each of these steps."""
    import os

    import keras

    class Ask(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            step = self.epoch * STEPS + batch
            mark = Path(folder) / f"asked-{step}"
            if sparkdl.world().rank == 1 and step in steps and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), WIND_DOWN_SIGNAL)

    return [Ask()]


def fit(dataset, folder: Path, steps: list[int]):
    folder.mkdir(exist_ok=True)
    config = TrainConfig(
        run_dir=str(folder / "run"),
        epochs=EPOCHS,
        global_batch_size=100,
        callbacks=partial(asking, str(folder), steps),
        checkpoint=CheckpointConfig(every_epochs=EPOCHS),
    )
    return sparkdl.fit(build_model, dataset, config, launch=LAUNCH)


def test_a_run_that_ends_when_asked_and_goes_on_is_the_undisturbed_one(digits_dataset, tmp_path) -> None:
    undisturbed = fit(digits_dataset, tmp_path / "whole", [])
    # A run that is asked in the step before its last one is finished all the same.
    steps = [*ASKED, EPOCHS * STEPS - 2]
    for place in ASKED.values():
        with pytest.raises(sparkdl.LaunchError, match=f"was asked to end and has a checkpoint before {place};"):
            fit(digits_dataset, tmp_path / "asked", steps)
    result = fit(digits_dataset, tmp_path / "asked", steps)
    assert (tmp_path / "asked" / f"asked-{steps[-1]}").exists()
    for name in ("loss", "val_loss", "accuracy"):
        expected = [record[name] for record in undisturbed.history]
        np.testing.assert_allclose([record[name] for record in result.history], expected, rtol=0, atol=1e-9)
