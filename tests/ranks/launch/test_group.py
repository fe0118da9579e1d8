"""Ranks of a worker group: each call is like the first, and nothing is left."""

import contextlib
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import sparkdl
from groups import age_model, allreduce
from paths import FIXTURES
from processes import is_alive, wait_until
from sparkdl import LaunchConfig, WorkerGroup
from sparkdl.errors import ConfigError, LaunchError, WorkerError
from sparkdl.imports import load_libraries
from sparkdl.launch.run import launch_ranks
from sparkdl.launch.worker.emit import emit
from sparkdl.launch.worker.reaper import children_of
from sparkdl.launch.world import world

pytestmark = pytest.mark.timeout(120)
TWO = LaunchConfig(num_workers=2, local=True, log="errors")


@pytest.fixture(scope="module")
def group():
    with WorkerGroup(TWO) as group:
        yield group


def pid_and_reaper():
    return os.getpid(), os.getppid()


def fork_server_of(group):
    """The process id of the group's fork server."""
    return group._forks._server.pid


def test_a_group_is_checked_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match="launch=2 must be a LaunchConfig"):
        WorkerGroup(2)
    with pytest.raises(ConfigError, match="idle_timeout_s=0 must be"):
        WorkerGroup(TWO, idle_timeout_s=0)
    with pytest.raises(ConfigError, match="launch='two' must be a LaunchConfig or a WorkerGroup"):
        sparkdl.run(print, launch="two")


def loaded():
    return {name for name in ("tensorflow", "keras", "horovod.tensorflow") if name in sys.modules}


def test_ranks_are_new_processes_that_have_the_libraries(group) -> None:
    before = os.getpid(), os.getcwd(), dict(os.environ)
    calls = [sparkdl.run(pid_and_reaper, launch=group) for _ in range(3)]
    assert len({pid for call in calls for pid, _ in call}) == 6
    assert not any(is_alive(process) for call in calls for pair in call for process in pair)
    assert sparkdl.run(loaded, launch=group) == [{"tensorflow", "keras", "horovod.tensorflow"}] * 2
    assert (os.getpid(), os.getcwd(), dict(os.environ)) == before


def test_each_call_has_a_rendezvous_of_its_own(group) -> None:
    assert [sparkdl.run(allreduce, start, launch=group) for start in (1, 2, 3)] == [[3.0] * 2, [5.0] * 2, [7.0] * 2]


def spoil_everything():
    """Change what a process can change, as a careless function does."""
    import keras
    import tensorflow as tf

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("mixed_float16")
    keras.utils.set_random_seed(7)
    keras.backend.set_image_data_format("channels_first")
    keras.layers.Dense.call = lambda self, x: x
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.run_functions_eagerly(True)
    np.seterr(all="raise")
    os.environ["MINE"] = "spoilt"
    os.environ["OMP_NUM_THREADS"] = "7"
    os.chdir("/")
    sys.path.insert(0, "/nowhere")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    logging.getLogger().setLevel(logging.CRITICAL)


def state():
    load_libraries()
    import keras
    import tensorflow as tf

    return {
        "floatx": keras.config.floatx(),
        "policy": keras.config.dtype_policy().name,
        "format": keras.config.image_data_format(),
        "dense": keras.layers.Dense.call.__qualname__,
        "layer": keras.layers.Dense(1).name,
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "eagerly": tf.config.functions_run_eagerly(),
        "numpy": np.geterr(),
        "environment": {name: value for name, value in os.environ.items() if name not in OF_A_CALL},
        "folder": os.getcwd(),
        "path": sys.path,
        "handler": str(signal.getsignal(signal.SIGTERM)),
        "names": sorted(thread.name for thread in threading.enumerate()),
        "level": logging.getLogger().level,
        "arguments": sys.argv,
        "tensorflow": tf.__file__,
    }


OF_A_CALL = ("TMPDIR", "SPARKDL_PROCESS", "HOROVOD_GLOO_RENDEZVOUS_PORT")


def test_nothing_that_a_call_changes_reaches_the_next(group) -> None:
    sparkdl.run(spoil_everything, launch=group)
    ours, new = sparkdl.run(state, launch=group), sparkdl.run(state, launch=TWO)
    for other in new:
        other["arguments"] = other["arguments"][:1]
    assert ours == new


def draws():
    import random
    import tempfile

    return np.random.rand(), random.random(), tempfile.mkdtemp()


def test_what_no_seed_fixes_differs_between_ranks_and_calls(group) -> None:
    drawn = [values for _ in range(2) for values in sparkdl.run(draws, launch=group)]
    assert all(len(set(column)) == 4 for column in zip(*drawn, strict=True))


def test_the_drivers_environment_folder_and_modules_are_those_of_the_call(tmp_path, monkeypatch) -> None:
    module = tmp_path / "of_this_test.py"
    module.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def look():
        import of_this_test

        return os.environ.get("MINE"), time.tzname[0], os.getcwd(), of_this_test.VALUE

    with WorkerGroup(LaunchConfig(num_workers=1, local=True)) as group:
        monkeypatch.setenv("TZ", "UTC")
        assert sparkdl.run(look, launch=group) == [(None, "UTC", os.getcwd(), 1)]
        server = fork_server_of(group)
        module.write_text("VALUE = 22\n")
        assert sparkdl.run(look, launch=group) == [(None, "UTC", os.getcwd(), 22)]
        assert fork_server_of(group) == server
        monkeypatch.setenv("MINE", "set")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        assert sparkdl.run(look, launch=group) == [("set", "JST", os.getcwd(), 22)]
        monkeypatch.chdir(tmp_path)
        assert sparkdl.run(look, launch=group) == [("set", "JST", str(tmp_path), 22)]


def test_keras_is_not_loaded_where_it_would_choose_another_backend(tmp_path) -> None:
    launch = LaunchConfig(num_workers=1, local=True, env={"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": ""})
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    with WorkerGroup(launch) as group:
        assert sparkdl.run(loaded, launch=group) == [set()]
        config = sparkdl.TrainConfig(run_dir=str(tmp_path / "run"), epochs=1, global_batch_size=7)
        sparkdl.fit(age_model, sparkdl.open_dataset(str(FIXTURES / "dataset-v1")), config, launch=group)


def raise_value_error():
    raise ValueError("boom")


def exit_3():
    os._exit(3)


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_reaper():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def stop_self():
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep():
    time.sleep(60)


STOPPED = "rank 1/2 on .* made no progress .*: its process is stopped"
DEATHS = [
    (raise_value_error, "rank 1/2 on .* failed: ValueError: boom"),
    pytest.param(exit_3, "rank 1/2 on .* exited with code 3 before its function returned", marks=pytest.mark.soak),
    pytest.param(kill_self, "rank 1/2 on .* died by signal SIGKILL", marks=pytest.mark.soak),
    (kill_reaper, "rank 1/2 on .* died by signal SIGKILL"),
    pytest.param(stop_self, STOPPED, marks=pytest.mark.soak),
    pytest.param(sleep, "rank 1/2 on .* made no progress for stall_timeout_s=3", marks=pytest.mark.soak),
]


def die_on_rank_1(death, folder):
    sleeper = subprocess.Popen(["sleep", "600"])
    emit({"pids": [os.getpid(), os.getppid(), sleeper.pid]})
    ready = pathlib.Path(folder) / str(os.getppid())
    if world().rank == 1:
        wait_until(lambda: list(ready.parent.iterdir()))
        death()
    ready.touch()
    limit = time.monotonic() + 60
    while time.monotonic() < limit:  # this rank makes progress
        pass


def assert_dies(group, death, line, folder) -> None:
    """A call fails with its cause, and leaves no process of a rank."""
    pids = []
    folder.mkdir()
    with pytest.raises(WorkerError, match=line) as caught:
        launch_ranks(
            die_on_rank_1, (death, str(folder)), launch=group, on_event=lambda _, event: pids.extend(event["pids"])
        )
    assert caught.value.rank == 1 and len(pids) == 6
    wait_until(lambda: not any(map(is_alive, pids)), 10)


@pytest.mark.parametrize(("death", "line"), DEATHS)
def test_a_call_that_fails_brings_its_cause_and_the_next_call_runs(death, line, tmp_path) -> None:
    with WorkerGroup(LaunchConfig(num_workers=2, local=True, log="errors", stall_timeout_s=3)) as group:
        assert_dies(group, death, line, tmp_path / "first")
        assert sparkdl.run(allreduce, 1, launch=group) == [3.0, 3.0]
        assert_dies(group, death, line, tmp_path / "third")
        assert sparkdl.run(allreduce, 2, launch=group) == [5.0, 5.0]


def test_a_fork_server_that_dies_fails_the_call_and_is_replaced(group, tmp_path) -> None:
    sparkdl.run(loaded, launch=group)
    server = fork_server_of(group)

    def kill_server(event):
        os.kill(server, signal.SIGKILL)

    with pytest.raises(WorkerError, match="rank ./2 on .* (died|exited|was ended)"):
        launch_ranks(die_on_rank_1, (sleep, str(tmp_path)), launch=group, on_event=lambda _, event: kill_server(event))
    assert sparkdl.run(allreduce, 1, launch=group) == [3.0, 3.0]
    os.kill(fork_server_of(group), signal.SIGKILL)
    assert sparkdl.run(allreduce, 2, launch=group) == [5.0, 5.0]


def test_a_closed_or_busy_group_says_so() -> None:
    with WorkerGroup(TWO) as group:
        running, done = threading.Event(), threading.Event()

        def wait():
            emit({})
            time.sleep(2)

        def call():
            launch_ranks(wait, launch=group, on_event=lambda *_: running.set())
            done.set()

        threading.Thread(target=call).start()
        assert running.wait(60)
        with pytest.raises(LaunchError, match="runs another call; a group takes one call at a time"):
            sparkdl.run(loaded, launch=group)
    assert done.is_set()  # closing waits for the call
    with pytest.raises(LaunchError, match="the worker group is closed"):
        sparkdl.run(loaded, launch=group)


def test_an_idle_group_ends_its_processes_and_starts_again() -> None:
    with WorkerGroup(TWO, idle_timeout_s=1) as group:
        sparkdl.run(loaded, launch=group)
        server = fork_server_of(group)
        wait_until(lambda: not is_alive(server), 10)
        assert sparkdl.run(allreduce, 1, launch=group) == [3.0, 3.0]


def test_a_closed_group_leaves_no_process_thread_or_descriptor(tmp_path) -> None:
    def use():
        with WorkerGroup(LaunchConfig(num_workers=2, local=True, env={"TMPDIR": str(tmp_path)})) as group:
            sparkdl.run(world, launch=group)
            server = fork_server_of(group)
        assert not is_alive(server)
        wait_until(lambda: threading.active_count() == threads)

    threads = threading.active_count()
    use()  # what the first run loads for good
    before = sorted(os.listdir("/proc/self/fd")), set(children_of(os.getpid()))
    use()
    assert (sorted(os.listdir("/proc/self/fd")), set(children_of(os.getpid()))) == before
    assert not list(tmp_path.iterdir())


DRIVER = """
import signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
import sparkdl
group = sparkdl.WorkerGroup(sparkdl.LaunchConfig(num_workers=2, local=True, log="all"))
sparkdl.run(print, launch=group)
print(group._forks._server.pid, flush=True)
if IDLE:
    threading.Event().wait()
sparkdl.run(lambda: (print("up", flush=True), threading.Event().wait()), launch=group)
"""


@pytest.mark.parametrize(
    ("number", "idle"),
    [
        (signal.SIGKILL, True),
        (signal.SIGKILL, False),
        *[pytest.param(signal.SIGINT, idle, marks=pytest.mark.soak) for idle in (True, False)],
        *[pytest.param(signal.SIGTERM, idle, marks=pytest.mark.soak) for idle in (True, False)],
    ],
)
def test_nothing_outlives_the_driver(number, idle, tmp_path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    program = DRIVER.replace("IDLE", str(idle))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as driver:
        assert driver.stdout is not None and driver.stderr is not None
        server = int(driver.stdout.readline())
        started = [server]
        if not idle:
            said = [driver.stderr.readline().strip() for _ in range(4)]
            assert sorted(said) == ["[rank 0]", "[rank 0] up", "[rank 1]", "[rank 1] up"]
            reapers = children_of(server)
            started += [*reapers, *(rank for reaper in reapers for rank in children_of(reaper))]
            assert len(started) == 5
        driver.send_signal(number)
        wait_until(lambda: not any(map(is_alive, started)), 10)
        wait_until(lambda: not list(tmp_path.iterdir()), 10)


def spoiling_model(ds):
    model = age_model(ds)
    spoil_everything()
    return model


def weights_of(result):
    return [weight.tobytes() for weight in sparkdl.load_model(result.model_dir).keras_model.get_weights()]


def test_a_fit_in_a_used_group_has_the_bits_of_one_in_new_ranks(group, tmp_path) -> None:
    dataset = sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))

    def fit(name, launch, model=age_model):
        config = sparkdl.TrainConfig(run_dir=str(tmp_path / name), epochs=2, global_batch_size=7, seed=5)
        result = sparkdl.fit(model, dataset, config, launch=launch)
        exact = [{key: row[key] for key in ("epoch", "loss", "mae", "lr")} for row in result.history]
        return exact, weights_of(result), sparkdl.evaluate(result.model_dir, dataset, "train", launch=launch)

    alone = fit("alone", TWO)
    with contextlib.suppress(Exception):  # the ranks are spoilt, whatever becomes of the fit
        fit("spoilt", group, spoiling_model)
    assert fit("first", group) == alone
    assert fit("second", group) == alone
    # A run that is finished is compared by the group's ranks.
    again = sparkdl.TrainConfig(run_dir=str(tmp_path / "first"), epochs=2, global_batch_size=7, seed=5)
    assert sparkdl.fit(lambda ds: age_model(ds), dataset, again, launch=group).history[0]["epoch"] == 0
