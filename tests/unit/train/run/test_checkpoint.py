"""Checkpoints on disk: committed or not there."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparkdl.errors import CheckpointError
from sparkdl.train.run.checkpoint import (
    CHECKPOINT_NAME,
    Position,
    committed_checkpoints,
    open_arrays,
    read_checkpoint,
    sweep_checkpoints,
    write_checkpoint,
)


def write(folder, epoch, step=0, value=1.0):
    return write_checkpoint(str(folder), Position(epoch, step), {"value": value}, [("a/0", np.full(3, value))])


def test_numbers_and_arrays_come_back(tmp_path):
    arrays = [("w/0", np.arange(6.0).reshape(2, 3)), ("w/1", np.array(7, np.int64)), ("w/2", np.zeros((0, 2)))]
    path = write_checkpoint(str(tmp_path), Position(2, 5), {"history": [{"loss": 0.5}]}, iter(arrays))
    checkpoint = read_checkpoint(path)
    assert (checkpoint.position, checkpoint.facts) == (Position(2, 5), {"history": [{"loss": 0.5}]})
    with open_arrays(checkpoint) as read:
        for name, array in arrays:
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype and read[name].shape == array.shape


def test_checkpoints_are_listed_in_the_order_of_their_positions(tmp_path):
    paths = [write(tmp_path, *place) for place in [(10, 0), (9, 99_999_999), (9, 100_000_000), (2, 0)]]
    assert committed_checkpoints(str(tmp_path)) == [paths[3], paths[1], paths[2], paths[0]]


def test_one_without_its_last_file_is_none_and_is_swept(tmp_path):
    good, half = write(tmp_path, 1), write(tmp_path, 2)
    os.remove(f"{half}/{CHECKPOINT_NAME}")
    (tmp_path / "epoch-00003-step-00000000.abc.aside").mkdir()
    assert committed_checkpoints(str(tmp_path)) == [good]
    sweep_checkpoints(str(tmp_path), keep=3)
    assert [path.name for path in tmp_path.iterdir()] == [Path(good).name]


def test_the_newest_are_kept(tmp_path):
    paths = [write(tmp_path, epoch) for epoch in range(6)]
    sweep_checkpoints(str(tmp_path), keep=2)
    assert committed_checkpoints(str(tmp_path)) == paths[4:]


def test_one_at_the_same_place_is_replaced(tmp_path):
    write(tmp_path, 1, value=1.0)
    path = write(tmp_path, 1, value=2.0)
    assert committed_checkpoints(str(tmp_path)) == [path] and read_checkpoint(path).facts == {"value": 2.0}


def test_an_error_while_arrays_are_taken_leaves_nothing(tmp_path):
    def failing():
        yield "a/0", np.zeros(3)
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        write_checkpoint(str(tmp_path), Position(1, 0), {}, failing())
    assert list(tmp_path.iterdir()) == []


def test_a_newer_format_and_a_damaged_file_are_told(tmp_path):
    path = write(tmp_path, 1)
    file = Path(path) / CHECKPOINT_NAME
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    with pytest.raises(CheckpointError, match="format_version 99"):
        read_checkpoint(path)
    file.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(path)


KILLED = """
import os, signal, sys
import numpy as np
from sparkdl.train.run.checkpoint import Position, write_checkpoint

def arrays():
    for place in range(4):
        if place == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield f"a/{place}", np.zeros(100_000)

write_checkpoint(sys.argv[1], Position(2, 0), {}, arrays())
"""


@pytest.mark.parametrize("place", [0, 2])
def test_a_writer_that_is_killed_leaves_the_one_before(place, tmp_path):
    good = write(tmp_path, 1)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(place)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert committed_checkpoints(str(tmp_path)) == [good]
    write(tmp_path, 2)
    sweep_checkpoints(str(tmp_path), keep=3)
    assert len(list(tmp_path.iterdir())) == 2
