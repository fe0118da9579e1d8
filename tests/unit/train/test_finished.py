"""What of a finished run is given back."""

import json

import pytest

from sparkdl.errors import CheckpointError
from sparkdl.train.config import CheckpointConfig
from sparkdl.train.finished import check_exactness
from sparkdl.train.run.best_model import best_model_dir
from sparkdl.train.run.checkpoint import Position, write_checkpoint
from sparkdl.train.run.run_dir import RunDir

PER_WORKER = {"epoch": 1, "per_worker": ["loss 'dice'"]}


def test_a_result_of_each_worker_is_not_given_back_as_an_exact_one(tmp_path) -> None:
    run = RunDir(str(tmp_path))
    with pytest.raises(CheckpointError, match="loss 'dice' computed per worker; ask for exactness='per_worker'"):
        check_exactness(run, [PER_WORKER], "strict")
    check_exactness(run, [PER_WORKER], "per_worker")
    check_exactness(run, [{"epoch": 1, "per_worker": ["weights (sync_every=4)"]}], "strict")
    check_exactness(run, [PER_WORKER, {"epoch": 2}], "strict")  # it went on exactly
    check_exactness(run, [], "strict")


@pytest.mark.parametrize(("last", "is_best"), [(("val_loss", "min"), True), ((None, None), False)])
def test_a_best_model_is_the_best_only_if_it_was_looked_for_to_the_end(tmp_path, last, is_best, caplog) -> None:
    run = RunDir(str(tmp_path))
    (tmp_path / "best-model").mkdir()
    (tmp_path / "best-model" / "model.keras").write_text("")
    best = {"monitor": "val_loss", "direction": "min", "value": 6.1, "epoch": 0}
    (tmp_path / "best.json").write_text(json.dumps(best))
    facts = {"best": None, "monitor": last[0], "direction": last[1], "history": []}
    write_checkpoint(run.checkpoints, Position(3, 0), facts, [])
    found = best_model_dir(run, CheckpointConfig(monitor="val_loss"), {})
    assert found == (run.best_model if is_best else None)
    assert ("looked for something else, or nothing, in its last epochs" in caplog.text) is not is_best
