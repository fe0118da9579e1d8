"""A run directory of format 1, committed, goes on where it was interrupted as it did on the day it was made.

Made by `python tests/fixtures/make_run_v1.py`; what going on must give lies beside it.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import sparkdl
from groups import local_group
from paths import FIXTURES
from sparkdl import CheckpointError

EXPECTED = json.loads((FIXTURES / "run-v1.expected.json").read_text())
CHECKPOINT = "checkpoints/epoch-00001-step-00000002/checkpoint.json"
ONE = local_group(1)


@pytest.fixture(scope="module")
def make():
    """What made the fixture: its model and its options."""
    spec = importlib.util.spec_from_file_location("make_run_v1", FIXTURES / "make_run_v1.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    """A copy of the run."""
    return Path(shutil.copytree(FIXTURES / "run-v1", tmp_path / "run"))


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_format_1_goes_on(make, run) -> None:
    # As if its version had not known an option, and its Keras had written models in another way.
    record = json.loads((run / "run.json").read_text())
    del record["config"]["sync_batch_norm"]
    change(run / "run.json", config=record["config"])
    facts = json.loads((run / CHECKPOINT).read_text())["facts"]
    facts["model"] |= {"keras": "3.0.0", "config": {}}
    change(run / CHECKPOINT, facts=facts)

    dataset = sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))
    result = sparkdl.fit(make.build_model, dataset, make.options(run), launch=ONE)
    for record, expected in zip(result.history, EXPECTED["history"], strict=True):
        assert {name: record[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    weights = keras.saving.load_model(Path(result.model_dir) / "model.keras").get_weights()
    for weight, expected in zip(weights, EXPECTED["weights"], strict=True):
        assert np.allclose(weight, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "newest"), [("run.json", 1), (CHECKPOINT, 2)])
def test_a_newer_format_is_refused(make, run, name, newest) -> None:
    change(run / name, format_version=newest + 1)
    dataset = sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))
    message = f"has format_version {newest + 1}; this version of sparkdl reads up to {newest}: update sparkdl"
    with pytest.raises((CheckpointError, sparkdl.WorkerError), match=message):
        sparkdl.fit(make.build_model, dataset, make.options(run), launch=ONE)
