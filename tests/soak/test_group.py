"""Fifty fits of one worker group: memory, processes and descriptors stay what they were."""

import os
import time

import psutil
import pytest

import sparkdl
from groups import age_model
from paths import FIXTURES
from sparkdl import LaunchConfig, WorkerGroup

pytestmark = pytest.mark.timeout(900)
FITS = 50
# Of the driver and of the fork server; a fit's own allocations come and go.
GROWTH = 30 << 20


def state(root):
    """Memory and descriptors of this process and of the fork servers, and the number of all processes below."""
    below = root.children(recursive=True)
    servers = [process for process in below if "fork_server.server" in " ".join(process.cmdline())]
    held = [psutil.Process(), *servers]
    return [process.memory_full_info().uss for process in held], [process.num_fds() for process in held], len(below)


@pytest.mark.parametrize("where", ["local", "spark"])
def test_fifty_fits_leave_memory_processes_and_descriptors_as_they_were(where, request, tmp_path) -> None:
    if where == "spark":
        request.getfixturevalue("spark")
    dataset = sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))
    states, seconds, losses = [], [], set()
    with WorkerGroup(LaunchConfig(num_workers=2, local=where == "local", log="errors")) as group:
        for fit in range(FITS):
            config = sparkdl.TrainConfig(run_dir=str(tmp_path / str(fit)), epochs=1, global_batch_size=7, seed=3)
            began = time.monotonic()
            losses.add(sparkdl.fit(age_model, dataset, config, launch=group).history[0]["loss"])
            seconds.append(time.monotonic() - began)
            states.append(state(psutil.Process(os.getpid())))
    print(f"{where}: first {seconds[0]:.1f} s, later {sorted(seconds)[FITS // 2]:.2f} s; {states[9]} -> {states[-1]}")
    assert len(losses) == 1
    for before, after in zip(states[9][0], states[-1][0], strict=True):
        assert after - before < GROWTH
    assert states[-1][1:] == states[9][1:]
