"""A prepare that is killed leaves the old dataset or none. A few moments; tests/soak has more."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import kill_prepare


@pytest.mark.parametrize(("seed", "has_old"), [(3, True), (4, False)])
def test_a_killed_prepare_leaves_what_was_there(spark, tmp_path, monkeypatch, seed, has_old) -> None:
    source = kill_prepare.write_source(spark, tmp_path)
    kill_prepare.trial(spark, source, tmp_path, seed=seed, seconds=4, has_old=has_old, monkeypatch=monkeypatch)
