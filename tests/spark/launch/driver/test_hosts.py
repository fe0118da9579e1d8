"""The whole way on a cluster of two hosts: other addresses, other names, other processes."""

import numpy as np
import pytest

from hosts import missing
from play import Play, losses
from standalone import SparkCluster

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300), pytest.mark.skipif(bool(missing()), reason=missing())]
TWO = {"num_workers": 2, "log": "errors"}
ONE = {"num_workers": 1, "local": True, "log": "errors"}


def test_two_hosts_prepare_train_and_score_as_one_does(tmp_path) -> None:
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    steps = [
        ("prepare", {"path": data}),
        ("hosts", {"launch": TWO}),
        ("fit", {"dataset": data, "run_dir": run, "launch": TWO}),
        ("fit", {"dataset": data, "run_dir": f"{run}-1", "launch": ONE}),
        ("score", {"dataset": data, "model": f"{run}/model"}),
    ]
    with SparkCluster(tmp_path / "cluster") as cluster:
        prepared, hosts, two, one, scored = Play(cluster, tmp_path / "driver", steps).end()
    assert prepared["value"] == {"train": 1468, "val": 164, "test": 165}
    places = hosts["value"]
    assert sorted(place["name"] for place in places) == ["worker-1", "worker-2"]
    assert [(place["rank"], place["local_rank"], place["cross_size"]) for place in places] == [(0, 0, 2), (1, 0, 2)]
    np.testing.assert_allclose(losses(two), losses(one), rtol=0, atol=1e-9)
    assert scored["value"]["rows"] == 165 and scored["value"]["accuracy"] > 0.7
