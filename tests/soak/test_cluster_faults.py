"""Hosts of a cluster fail in the middle of training: the cause is told in time, and the numbers stay the same.

    .venv/bin/python -m pytest tests/soak/test_cluster_faults.py -s

As root, with iproute2. About ten minutes.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from hosts import missing
from play import DRIVER, Play, await_condition, losses, ranks_of
from standalone import SparkCluster

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing())]
THREE = {"num_workers": 3, "min_workers": 2, "log": "errors"}
WORKERS = ("worker-1", "worker-2", "worker-3")
CAUSE_LIMIT_S = 20.0
# A rank without its driver ends after 30 s of silence, with two more to end by itself.
ORPHAN_LIMIT_S = 40.0
RANDOM_FAULTS = int(os.environ.get("SPARKDL_SOAK_FAULTS", "10"))
FIRST_SEED = int(os.environ.get("SPARKDL_SOAK_SEED", "100"))


def fit(folder: Path, name: str, launch: dict, **options) -> tuple[str, dict]:
    """A training run whose rank 0 leaves a file for each step in `<folder>/<name>-pace`."""
    pace = folder / f"{name}-pace"
    pace.mkdir()
    paced = {"pace": [str(pace), 0.2], "checkpoint": {"every_steps": 4}}
    return "fit", {"dataset": str(folder / "data"), "run_dir": str(folder / name), "launch": launch, **paced, **options}


def in_epoch(folder: Path, name: str) -> Path:
    """The file that is there once the run is in the middle of its first epoch of 15 steps."""
    return folder / f"{name}-pace" / "step-8"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[tuple[float, float]]:
    """The losses of one process on this machine."""
    folder = tmp_path_factory.mktemp("alone")
    alone = {"num_workers": 1, "local": True, "log": "errors"}
    data = str(folder / "data")
    steps = [("prepare", {"path": data}), ("fit", {"dataset": data, "run_dir": str(folder / "run"), "launch": alone})]
    (folder / "steps.json").write_text(json.dumps(steps))
    command = [sys.executable, DRIVER, str(folder / "steps.json"), str(folder / "told.json")]
    subprocess.run(command, cwd=folder, check=True, timeout=200, env={**os.environ, "MASTER": "local[2]"})
    return losses(json.loads((folder / "told.json").read_text())[1])


def assert_same(told: dict, undisturbed: list[tuple[float, float]]) -> None:
    np.testing.assert_allclose(losses(told), undisturbed, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fault", ["cut", "power_off"])
def test_a_host_that_vanishes_is_told_and_the_others_go_on(fault, undisturbed, tmp_path) -> None:
    steps = [("prepare", {"path": str(tmp_path / "data")}), fit(tmp_path, "run", THREE)]
    with SparkCluster(tmp_path / "cluster", WORKERS) as cluster:
        play = Play(cluster, tmp_path / "driver", steps)
        play.await_file(in_epoch(tmp_path, "run"))
        getattr(cluster.network, fault)("worker-2")
        seconds = play.await_words("restart 1 of 2")
        print(f"{fault}: told after {seconds:.1f} s", flush=True)
        assert seconds < CAUSE_LIMIT_S
        lost = cluster.network.hosts["worker-2"]
        assert f"on {lost.address} was lost: its executor or host died" in play.output
        if fault == "cut":
            left = await_condition(lambda: not ranks_of(lost), "the cut-off ranks' end", ORPHAN_LIMIT_S)
            print(f"cut-off ranks ended {seconds + left:.1f} s after the cut", flush=True)
        _, trained = play.end()
    assert_same(trained, undisturbed)


def test_a_slow_host_holds_up_the_others_and_changes_nothing(undisturbed, tmp_path) -> None:
    steps = [("prepare", {"path": str(tmp_path / "data")}), fit(tmp_path, "run", THREE)]
    with SparkCluster(tmp_path / "cluster", WORKERS) as cluster:
        play = Play(cluster, tmp_path / "driver", steps)
        play.await_file(in_epoch(tmp_path, "run"))
        host = cluster.network.hosts["worker-2"]
        with cluster.network.slow("worker-2", rate="4mbit"):
            stopped = host.processes()
            for number in (signal.SIGSTOP, signal.SIGCONT):  # the whole host stands still for a while
                for process in stopped:
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(number)
                time.sleep(6)
            _, trained = play.end()
    assert "restart" not in play.output
    assert_same(trained, undisturbed)


def test_a_host_whose_name_is_a_loopback_address_is_named_before_ranks_start(tmp_path) -> None:
    workers = {"worker-1": {}, "worker-2": {"own_name": "127.0.1.1"}}
    with SparkCluster(tmp_path / "cluster", workers) as cluster:
        address = cluster.network.hosts["worker-2"].address
        steps = [("hosts", {"launch": {"num_workers": 2, "log": "errors"}})]
        (refused,) = Play(cluster, tmp_path / "driver", steps).end()
    assert refused["type"] == "LaunchError"
    assert refused["error"].startswith(f"the own name of {address} resolves to 127.x there")


def test_two_applications_train_at_once_and_a_new_host_joins_the_next_run(undisturbed, tmp_path) -> None:
    shared = str(tmp_path / "data")
    half = ("--conf", "spark.cores.max=2", "--conf", "spark.executor.cores=1")
    two = {"num_workers": 2, "log": "errors"}
    grown = tmp_path / "grown"
    with SparkCluster(tmp_path / "cluster", ("worker-1", "worker-2"), cores=2) as cluster:
        Play(cluster, tmp_path / "prepare", [("prepare", {"path": shared})]).end()
        plays = [
            Play(cluster, tmp_path / name, [fit(tmp_path, f"{name}-run", two)], *half) for name in ("one", "other")
        ]
        for (trained,) in [play.end() for play in plays]:
            assert_same(trained, undisturbed)
        first = fit(tmp_path, "grows", {"num_workers": 4, "log": "errors"}, epochs=1)
        joined = ("fit", {**first[1], "epochs": 3, "launch": {"num_workers": 6, "log": "errors"}})
        growing = Play(cluster, tmp_path / "growing", [first, ("wait", {"file": str(grown), "slots": 6}), joined])
        await_condition(lambda: len(growing.told) == 1, "the first run")
        cluster.add_worker("worker-3")
        grown.touch()
        one, waited, all_epochs = growing.end()
    assert waited["value"] is True
    np.testing.assert_allclose(losses(one), undisturbed[:1], rtol=0, atol=1e-9)
    assert_same(all_epochs, undisturbed)


def test_a_killed_driver_is_followed_by_one_that_goes_on_in_a_bucket(undisturbed, tmp_path) -> None:
    store = "http://store:5000"
    keys = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "of-the-test", "AWS_DEFAULT_REGION": "us-east-1"}
    env = {**keys, "AWS_ENDPOINT_URL": store, "AWS_EC2_METADATA_DISABLED": "true"}
    with SparkCluster(tmp_path / "cluster", env=env) as cluster:
        server = cluster.network.add("store")
        command = [sys.executable, "-m", "moto.server", "--host", server.address, "--port", "5000"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        server.popen(command, cwd=tmp_path, env=cluster.environment("driver"), **quiet)
        make = "import s3fs, time\nfor _ in range(100):\n    try: s3fs.S3FileSystem().mkdir('runs'); break\n"
        make += "    except Exception: time.sleep(0.2)\nelse: raise SystemExit('no store')"
        made = cluster.driver.run(
            [sys.executable, "-c", make], cwd=tmp_path, env=cluster.environment("driver"), timeout=60
        )
        assert made.returncode == 0, made.stdout
        two = {"num_workers": 2, "log": "errors"}
        _, options = fit(tmp_path, "run", two)
        options |= {"dataset": "s3://runs/data", "run_dir": "s3://runs/run"}
        first = Play(cluster, tmp_path / "first", [("prepare", {"path": "s3://runs/data"}), ("fit", options)])
        first.await_file(in_epoch(tmp_path, "run"))
        first.process.kill()
        first.process.wait()
        (trained,) = Play(cluster, tmp_path / "second", [("fit", {**options, "resume": "must"})]).end()
    assert_same(trained, undisturbed)


def traces() -> dict[str, set[str]]:
    """What a cluster could leave on this machine: links, mounts, namespaces that processes hold, temporary folders."""
    held = set()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            held.add(os.readlink(f"/proc/{process.pid}/ns/net"))
    folders = {path.name for path in Path("/tmp").glob("sparkdl*")}
    mounts = set(Path("/proc/self/mounts").read_text().splitlines())
    return {"links": set(psutil.net_if_addrs()), "mounts": mounts, "networks": held, "folders": folders}


def strike(cluster: SparkCluster, name: str, fault: str) -> None:
    host = cluster.network.hosts[name]
    if fault in ("cut", "power_off"):
        getattr(cluster.network, fault)(name)
        return
    words = {"executor": "CoarseGrainedExecutorBackend", "worker": "deploy.worker.Worker"}
    victims = ranks_of(host) if fault == "ranks" else []
    if fault in words:
        victims = [p for p in host.processes() if any(words[fault] in word for word in p.cmdline())]
    assert victims, f"{fault}: nothing to kill on {name}"
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_random_faults_in_a_row_leave_nothing_behind(undisturbed, tmp_path) -> None:
    before = traces()
    runs = [f"run-{seed}" for seed in range(FIRST_SEED, FIRST_SEED + RANDOM_FAULTS)]
    steps = [("prepare", {"path": str(tmp_path / "data")})]
    for run in runs:
        whole = {"file": str(tmp_path / f"{run}-go"), "slots": 3}
        steps += [("wait", whole), fit(tmp_path, run, {**THREE, "start_timeout_s": 90})]
    workers = list(WORKERS)
    with SparkCluster(tmp_path / "cluster", WORKERS) as cluster:
        play = Play(cluster, tmp_path / "driver", steps)
        for number, run in enumerate(runs):
            chance = random.Random(FIRST_SEED + number)
            (tmp_path / f"{run}-go").touch()
            play.await_file(in_epoch(tmp_path, run))
            name, fault = chance.choice(workers), chance.choice(["cut", "power_off", "executor", "worker", "ranks"])
            time.sleep(chance.uniform(0, 3))
            strike(cluster, name, fault)
            struck = time.monotonic()
            await_condition(
                lambda ended=2 * number + 3: len(play.told) >= ended, f"{run}'s end after {fault} of {name}"
            )
            print(f"{run}: {fault} of {name}, ended {time.monotonic() - struck:.1f} s later", flush=True)
            assert_same(play.told[-1], undisturbed)
            if fault in ("cut", "power_off", "worker"):  # another host takes its place
                await_condition(lambda lost=name: not ranks_of(cluster.network.hosts[lost]), "the end of its ranks")
                workers[workers.index(name)] = f"spare-{number}"
                cluster.add_worker(f"spare-{number}")
        play.end()
        assert not any(ranks_of(host) for host in cluster.network.hosts.values())
        for name in workers:  # whose Spark still runs
            assert not list((cluster.folder / "hosts" / name / "tmp").glob("sparkdl*"))
        hosts = [host.pid for host in cluster.network.hosts.values()]
    await_condition(lambda: not any(map(psutil.pid_exists, hosts)), "the end of all hosts", 20)
    after = traces()
    assert {name: after[name] - before[name] for name in before} == {name: set() for name in before}
