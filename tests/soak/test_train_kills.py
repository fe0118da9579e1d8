"""Training runs whose ranks are killed at random moments, and while they write checkpoints, end as if nothing had been.

.venv/bin/python -m pytest tests/soak/test_train_kills.py -s
"""

import random
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import sparkdl
from sparkdl import CheckpointConfig, LaunchConfig, TrainConfig
from sparkdl.train.run.checkpoint import committed_checkpoints, open_arrays, read_checkpoint

pytestmark = pytest.mark.timeout(3600)
TRIALS = 20
FIRST_SEED = 100
LAUNCH = LaunchConfig(num_workers=2, local=True, log="errors")


def build_model(ds):
    import keras

    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Rescaling(1 / 16),
        keras.layers.Flatten(),
        keras.layers.Dense(256, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(len(ds.classes), activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def config(run_dir, **options):
    base = {"epochs": 30, "global_batch_size": 64, "seed": 3, "checkpoint": CheckpointConfig(every_steps=4, keep=2)}
    return TrainConfig(run_dir=str(run_dir), **{**base, **options})


def ranks() -> dict[int, psutil.Process]:
    """This process's rank processes by rank."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            rank = process.environ().get("HOROVOD_RANK")
            # The reaper has the same variables; the rank is its child.
            if rank is not None and process.parent().environ().get("HOROVOD_RANK") == rank:
                found[int(rank)] = process
        except psutil.Error:
            continue
    return found


def weights_of(result):
    return sparkdl.load_model(result.model_dir).keras_model.get_weights()


@pytest.fixture(scope="module")
def undisturbed(digits_dataset, tmp_path_factory):
    """Its weights, and the seconds that it took."""
    began = time.monotonic()
    result = sparkdl.fit(build_model, digits_dataset, config(tmp_path_factory.mktemp("whole") / "run"), launch=LAUNCH)
    return weights_of(result), time.monotonic() - began


def assert_equal(weights, expected) -> None:
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_a_rank_killed_at_a_random_moment_changes_nothing(undisturbed, digits_dataset, tmp_path) -> None:
    expected, seconds = undisturbed
    hits, seed = 0, FIRST_SEED - 1
    # A run may have ended before its moment comes: that is no trial.
    while hits < TRIALS:
        seed += 1
        assert seed < FIRST_SEED + 3 * TRIALS
        chance = random.Random(seed)
        delay, rank = chance.uniform(0.3, seconds), chance.randrange(2)
        over = threading.Event()
        killed = []

        def kill(delay=delay, rank=rank, over=over, killed=killed):
            over.wait(delay)
            process = ranks().get(rank)
            if process is not None:
                process.kill()
                killed.append(process.pid)

        thread = threading.Thread(target=kill)
        thread.start()
        result = sparkdl.fit(build_model, digits_dataset, config(tmp_path / f"run-{seed}"), launch=LAUNCH)
        over.set()
        thread.join()
        hits += len(killed)
        print(f"seed {seed}: rank {rank} after {delay:.1f} s, {'killed' if killed else 'had ended'}", flush=True)
        assert_equal(weights_of(result), expected)


def test_killed_while_writing_a_checkpoint_there_is_always_a_whole_one(undisturbed, digits_dataset, tmp_path) -> None:
    run_dir = tmp_path / "run"
    chance = random.Random(FIRST_SEED)
    once = config(run_dir, max_restarts=0, epochs=200, checkpoint=CheckpointConfig(every_steps=2, keep=2))
    reached = []
    for trial in range(TRIALS):
        over = threading.Event()
        wanted = chance.randrange(1, 4)

        def kill_in_writing(over=over, wanted=wanted):
            seen: set[str] = set()
            folder = Path(run_dir) / "checkpoints"
            while not over.is_set():
                seen |= {path.name for path in folder.glob("*.aside")} if folder.exists() else set()
                if len(seen) >= wanted and 0 in (running := ranks()):
                    running[0].kill()
                    return
                time.sleep(0.0005)

        thread = threading.Thread(target=kill_in_writing)
        thread.start()
        with pytest.raises(sparkdl.WorkerError, match="SIGKILL"):
            sparkdl.fit(build_model, digits_dataset, once, launch=LAUNCH)
        over.set()
        thread.join()
        paths = committed_checkpoints(f"{run_dir}/checkpoints")
        for path in paths:
            with open_arrays(read_checkpoint(path)) as arrays:
                assert all(np.isfinite(arrays[name]).all() for name in arrays)
        reached.append(read_checkpoint(paths[-1]).position if paths else None)
        print(f"trial {trial}: {reached[-1]}", flush=True)
    assert reached == sorted(reached, key=lambda position: (position is not None, position or 0))
    assert reached[-1] is not None
