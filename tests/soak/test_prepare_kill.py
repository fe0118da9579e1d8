"""kill -9 during prepare at 20 random moments: the old dataset or none is readable, and the next prepare succeeds.

    .venv/bin/python -m pytest tests/soak/test_prepare_kill.py -s

Prints the seed and the moment of every trial; about half a minute each.
"""

import pytest

import kill_prepare

MOMENTS = 20
WRITE_SECONDS = 1.0


@pytest.fixture(scope="module")
def source(spark, tmp_path_factory):
    return kill_prepare.write_source(spark, tmp_path_factory.mktemp("kill"))


@pytest.fixture(scope="module")
def seconds(source, tmp_path_factory):
    # the shorter of two: most moments must lie within a prepare, on a machine that is busy only now and then, too
    folders = [tmp_path_factory.mktemp("unharmed") for _ in range(2)]
    return min(kill_prepare.duration(source, str(folder / "data")) for folder in folders)


@pytest.mark.parametrize("seed", range(100, 100 + MOMENTS))
def test_a_killed_prepare_leaves_the_old_dataset_or_none(spark, source, seconds, tmp_path, monkeypatch, seed) -> None:
    # every second one while it writes and commits, which is the shorter part of a prepare
    in_write = seed // 2 % 2 == 0
    how = {"seconds": WRITE_SECONDS if in_write else seconds, "has_old": seed % 2 == 0, "in_write": in_write}
    kill_prepare.trial(spark, source, tmp_path, seed=seed, monkeypatch=monkeypatch, **how)
