"""A prepare that is killed leaves the old dataset or none. A few moments; tests/soak has more."""

import pytest

import kill_prepare


@pytest.mark.parametrize(
    ("seed", "seconds", "how"),
    [pytest.param(3, 4, {"has_old": True}, marks=pytest.mark.soak), (4, 0.4, {"in_write": True})],
)
def test_a_killed_prepare_leaves_what_was_there(spark, tmp_path, monkeypatch, seed, seconds, how) -> None:
    source = kill_prepare.write_source(spark, tmp_path)
    how = {"has_old": False, "in_write": False, **how}
    kill_prepare.trial(spark, source, tmp_path, seed=seed, seconds=seconds, monkeypatch=monkeypatch, **how)
