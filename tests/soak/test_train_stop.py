"""Training on three ranks ends on all of them after the same step, whoever asks for it."""

from pathlib import Path

import sparkdl
from sparkdl import LaunchConfig, TrainConfig

THREE = LaunchConfig(num_workers=3, local=True)
STEPS = 8  # of an epoch: 1,468 rows in steps of 200


def build_model(ds):
    import keras

    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential(layers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def counted(folder, others):
    """Callbacks, the last of which writes down how many steps its rank took."""

    def make():
        import keras

        class Count(keras.callbacks.Callback):
            steps = 0

            def on_train_batch_end(self, batch, logs=None):
                self.steps += 1

            def on_train_end(self, logs=None):
                Path(folder, f"{sparkdl.world().rank}.steps").write_text(str(self.steps))

        return [*others(keras), Count()]

    return make


def patient(keras):
    """After two epochs without a gain; none is one."""
    return [keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=1e9)]


def rank_1_stops(keras):
    """Rank 1 alone wants to stop in the second epoch's third step."""

    class Stop(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if sparkdl.world().rank == 1 and (self.epoch, batch) == (1, 2):
                self.model.stop_training = True

    return [Stop()]


def steps_of_ranks(folder) -> list[int]:
    return [int((folder / f"{rank}.steps").read_text()) for rank in range(3)]


def test_early_stopping_stops_three_ranks_after_the_same_epoch(digits_dataset, tmp_path) -> None:
    callbacks = counted(tmp_path, patient)
    config = TrainConfig(run_dir=str(tmp_path / "run"), epochs=20, global_batch_size=200, callbacks=callbacks)
    history = sparkdl.fit(build_model, digits_dataset, config, launch=THREE).history
    assert len(history) == 3 and steps_of_ranks(tmp_path) == [3 * STEPS] * 3


def test_a_callback_of_rank_1_stops_three_ranks_after_the_same_step(digits_dataset, tmp_path) -> None:
    callbacks = counted(tmp_path, rank_1_stops)
    config = TrainConfig(run_dir=str(tmp_path / "run"), epochs=20, global_batch_size=200, callbacks=callbacks)
    history = sparkdl.fit(build_model, digits_dataset, config, launch=THREE).history
    # The other ranks hear of it with the next step's sums.
    assert len(history) == 2 and steps_of_ranks(tmp_path) == [STEPS + 4] * 3
