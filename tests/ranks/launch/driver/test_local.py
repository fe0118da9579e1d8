"""Ranks as child processes of the driver: values, failures, and what is left afterwards."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from processes import is_alive, wait_until
from sparkdl.errors import ConfigError, LaunchError, ModelError, WorkerError
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.run import launch_ranks, run
from sparkdl.launch.worker.emit import emit
from sparkdl.launch.world import world

pytestmark = pytest.mark.timeout(90)
TWO = LaunchConfig(num_workers=2, local=True, log="errors")


def children_of(pid):
    """Process ids of the rank processes that a process started."""
    text = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in text for child in file.read_text().split()]


def run_and_list_pids(fn, *args, launch=TWO):
    """Run a failing function; the error and the ranks' process ids, which each rank emitted."""
    pids = {}
    with pytest.raises(Exception) as caught:
        launch_ranks(
            with_pid, (fn, *args), launch=launch, on_event=lambda rank, event: pids.update({rank: event["pid"]})
        )
    return caught.value, pids


def with_pid(fn, *args):
    emit({"pid": os.getpid()})
    return fn(*args)


def fail_on_rank_1(folder, failure):
    """Rank 1 fails once rank 0 is about to wait."""
    ready = pathlib.Path(folder) / "ready"
    if world().rank == 0:
        ready.touch()
        threading.Event().wait()
    wait_until(ready.exists)
    failure()


def wait_for_ever():
    threading.Event().wait()


def raise_value_error():
    raise ValueError("boom")


def raise_model_error():
    raise ModelError("no loss")


def exit_3():
    os._exit(3)


def sys_exit_4():
    print("last words")
    sys.exit(4)


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def test_values_come_in_rank_order_with_arguments_and_worlds():
    values = run(
        lambda x, y: (world().rank, world().size, x, y), 3, y="z", launch=LaunchConfig(num_workers=3, local=True)
    )
    assert values == [(0, 3, 3, "z"), (1, 3, 3, "z"), (2, 3, 3, "z")]


def test_one_worker_takes_the_same_path():
    assert run(os.getpid, launch=LaunchConfig(num_workers=1, local=True)) != [os.getpid()]


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (raise_value_error, "rank 1/2 on {host} failed: ValueError: boom"),
        (exit_3, "rank 1/2 on {host} exited with code 3 before its function returned"),
        (sys_exit_4, "rank 1/2 on {host} exited with code 4 before its function returned"),
        (kill_self, "rank 1/2 on {host} died by signal SIGKILL (often the kernel's or the container's memory limit)"),
    ],
)
def test_a_failing_rank_is_named_and_no_rank_is_left(failure, line, tmp_path):
    error, pids = run_and_list_pids(fail_on_rank_1, str(tmp_path), failure)
    assert isinstance(error, WorkerError) and error.rank == 1
    assert str(error).splitlines()[0] == line.format(host=error.host)
    assert sorted(pids) == [0, 1] and not any(map(is_alive, pids.values()))


def test_an_exception_brings_its_traceback(tmp_path):
    error, _ = run_and_list_pids(fail_on_rank_1, str(tmp_path), raise_value_error)
    assert 'raise ValueError("boom")' in error.remote_traceback and error.remote_traceback.rstrip() in str(error)


def test_a_rank_that_exits_leaves_its_last_lines(tmp_path):
    error, _ = run_and_list_pids(fail_on_rank_1, str(tmp_path), sys_exit_4)
    assert error.last_lines == "last words" and "last words" in str(error)


def test_an_error_of_the_library_keeps_its_type_and_names_the_rank_as_its_cause(tmp_path):
    error, _ = run_and_list_pids(fail_on_rank_1, str(tmp_path), raise_model_error)
    assert isinstance(error, ModelError) and str(error) == "no loss"
    assert isinstance(error.__cause__, WorkerError) and error.__cause__.rank == 1


def test_descendants_of_a_stopped_rank_end_too(tmp_path):
    def start_descendant():
        emit({"pid": subprocess.Popen(["sleep", "1000"]).pid})
        return fail_on_rank_1(str(tmp_path), raise_value_error)

    error, pids = run_and_list_pids(start_descendant)
    assert isinstance(error, WorkerError) and len(pids) == 2
    wait_until(lambda: not any(map(is_alive, pids.values())), 5)


def test_a_rank_that_ignores_sigterm_is_killed(tmp_path):
    def ignore():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return fail_on_rank_1(str(tmp_path), raise_value_error)

    error, pids = run_and_list_pids(ignore)
    assert "boom" in str(error) and not any(map(is_alive, pids.values()))


def test_events_arrive_while_the_rank_runs(tmp_path):
    seen = tmp_path / "seen"

    def wait_for_driver():
        emit({"loss": 0.5, "rank": world().rank})
        wait_until(seen.exists)

    events = []

    def on_event(rank, event):
        events.append((rank, event))
        if len(events) == 2:
            seen.touch()

    launch_ranks(wait_for_driver, launch=TWO, on_event=on_event)
    assert sorted(events, key=lambda e: e[0]) == [(r, {"loss": 0.5, "rank": r}) for r in (0, 1)]


def test_an_error_in_on_event_stops_the_run_and_is_raised():
    def on_event(rank, event):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        launch_ranks(with_pid, (wait_for_ever,), launch=TWO, on_event=on_event)


def test_emit_outside_a_rank_does_nothing():
    emit({"loss": 1})


def test_an_event_that_is_not_json_is_an_error_in_the_rank():
    with pytest.raises(ConfigError, match="must be made of JSON values"):
        run(lambda: emit({"x": object()}), launch=TWO)


def test_a_value_of_100_mb_comes_back():
    assert [len(value) for value in run(lambda: bytes(100 << 20), launch=TWO)] == [100 << 20] * 2


def test_a_function_that_cannot_be_sent_is_refused_on_the_driver():
    with pytest.raises(ConfigError, match=r"args\[0\], a _thread.lock, cannot be sent to the ranks"):
        run(print, threading.Lock(), launch=TWO)


def test_a_function_that_is_too_large_is_refused_on_the_driver():
    table = bytes(64 << 20)
    with pytest.raises(ConfigError, match=r"are 64.0 MB, over the limit of 10 MB .* <lambda>'s variable 'table' \("):
        run(lambda: table, launch=TWO)


def test_a_value_that_cannot_be_pickled_is_the_ranks_error():
    with pytest.raises(WorkerError, match="rank ./2 on .* failed: TypeError: cannot pickle"):
        run(threading.Lock, launch=TWO)


def test_temporary_files_of_a_rank_go_with_it(tmp_path):
    launch = LaunchConfig(num_workers=2, local=True, env={"TMPDIR": str(tmp_path)})
    files = run(lambda: tempfile.mkstemp()[1], launch=launch)
    assert [pathlib.Path(file).parent.parent for file in files] == [tmp_path] * 2
    assert not list(tmp_path.iterdir())


def test_the_users_environment_is_set_and_the_drivers_unchanged():
    before = dict(os.environ)
    launch = LaunchConfig(num_workers=2, local=True, env={"MINE": "7"})
    assert run(lambda: (os.environ["MINE"], os.environ["HOROVOD_RANK"]), launch=launch) == [("7", "0"), ("7", "1")]
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("log", "lines"),
    [("rank0", ["hello from 0"]), ("all", ["[rank 0] hello from 0", "[rank 1] hello from 1"]), ("errors", [])],
)
def test_the_log_option_decides_what_is_shown(log, lines, capsys):
    run(lambda: print(f"hello from {world().rank}"), launch=LaunchConfig(num_workers=2, local=True, log=log))
    assert sorted(capsys.readouterr().err.splitlines()) == lines


def test_a_rank_logs_with_its_name_and_only_rank_0_below_warning(capsys):
    import logging

    def speak():
        logging.getLogger("x").info("info")
        logging.getLogger("x").warning("warning")
        return world().host

    host = run(speak, launch=LaunchConfig(num_workers=2, local=True, log="all"))[0]
    assert sorted(capsys.readouterr().err.splitlines()) == [
        f"[rank 0] INFO [rank 0/2 {host}] x: info",
        f"[rank 0] WARNING [rank 0/2 {host}] x: warning",
        f"[rank 1] WARNING [rank 1/2 {host}] x: warning",
    ]


def test_the_entry_point_of_a_rank_imports_no_tensorflow():
    assert run(lambda: "tensorflow" in sys.modules, launch=TWO) == [False, False]


def test_ranks_that_do_not_start_in_time_are_a_launch_error():
    with pytest.raises(LaunchError, match="of 2 ranks started within start_timeout_s=0.001; free 2 task slots"):
        run(world, launch=LaunchConfig(num_workers=2, local=True, start_timeout_s=0.001))


def test_a_run_from_another_thread_works():
    values = []
    thread = threading.Thread(target=lambda: values.extend(run(lambda: world().rank, launch=TWO)))
    thread.start()
    thread.join(30)
    assert values == [0, 1]


def test_a_run_leaves_no_thread_file_or_descriptor():
    run(world, launch=TWO)  # what the first run loads for good
    before = set(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))
    run(world, launch=TWO)
    assert (set(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))) == before


# What a shell starts in the background ignores Ctrl-C; so would this, where the tests run there.
DRIVER = """
import signal, tempfile, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.run import run
run(lambda: (tempfile.mkdtemp(), print("up", flush=True), threading.Event().wait()),
    launch=LaunchConfig(num_workers=2, local=True, log="all"))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ranks_do_not_outlive_the_driver(number, tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stderr=subprocess.PIPE, text=True, env=env)
    with driver:
        assert driver.stderr is not None
        assert {driver.stderr.readline().strip() for _ in range(2)} == {"[rank 0] up", "[rank 1] up"}
        ranks = children_of(driver.pid)
        assert len(ranks) == 2
        assert [len(os.listdir(folder)) for folder in tmp_path.iterdir()] == [1, 1]
        driver.send_signal(number)
        wait_until(lambda: not any(map(is_alive, ranks)), 5)
        wait_until(lambda: not list(tmp_path.iterdir()), 5)
        rest = driver.stderr.read()
    assert number == signal.SIGKILL or rest.rstrip().endswith("KeyboardInterrupt")


def allreduce():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    assert (hvd.rank(), hvd.size(), hvd.local_rank()) == (world().rank, world().size, world().local_rank)
    return float(hvd.allreduce(tf.constant(float(hvd.rank() + 1)), op=hvd.Sum))


def test_three_ranks_sum_with_horovod():
    assert run(allreduce, launch=LaunchConfig(num_workers=3, local=True)) == [6.0, 6.0, 6.0]


def wait_for_a_peer_that_fails(folder, initialised):
    import horovod.tensorflow as hvd
    import tensorflow as tf

    waiting = pathlib.Path(folder) / "waiting"
    if initialised:
        hvd.init()
    if world().rank == 1:
        wait_until(waiting.exists, 60)
        raise ValueError("boom")
    waiting.touch()
    hvd.init()
    hvd.allreduce(tf.constant(1.0), name="never")


@pytest.mark.parametrize("initialised", [False, True])
def test_the_users_exception_is_the_cause_while_the_peer_waits_in_horovod(initialised, tmp_path):
    error, pids = run_and_list_pids(wait_for_a_peer_that_fails, str(tmp_path), initialised)
    assert isinstance(error, WorkerError) and error.rank == 1 and "ValueError: boom" in str(error).splitlines()[0]
    assert not any(map(is_alive, pids.values()))


def allreduce_until_the_peer_is_killed():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    hvd.allreduce(tf.constant(1.0), name="first")
    if world().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    hvd.allreduce(tf.constant(1.0), name="second")


def test_a_killed_rank_is_blamed_and_not_the_one_that_lost_its_peer():
    error, pids = run_and_list_pids(allreduce_until_the_peer_is_killed)
    assert "rank 1/2" in str(error) and "SIGKILL" in str(error).splitlines()[0]
    assert not any(map(is_alive, pids.values()))


def stop_rank_1():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    hvd.allreduce(tf.constant(1.0), name="first")
    if hvd.rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    hvd.allreduce(tf.constant(1.0), name="second")


STALL = LaunchConfig(num_workers=2, local=True, stall_timeout_s=4)


def test_a_stopped_rank_is_named_after_the_stall_timeout():
    with pytest.raises(WorkerError, match="rank 1/2 on .* made no progress .*: its process is stopped") as raised:
        run(stop_rank_1, launch=STALL)
    assert raised.value.rank == 1
    # the stopped rank's own stack, and that of the one that waits for it
    assert "in stop_rank_1" in raised.value.remote_traceback and "in horovod_allreduce" in str(raised.value)


def sleep_on_rank_1():
    limit = time.monotonic() + 60
    while world().rank == 0 and time.monotonic() < limit:
        pass
    time.sleep(60)


def test_a_rank_that_does_nothing_is_a_stall_and_one_that_computes_is_none():
    with pytest.raises(WorkerError, match="rank 1/2 on .* made no progress for stall_timeout_s=4") as raised:
        run(sleep_on_rank_1, launch=STALL)
    assert raised.value.rank == 1 and "in sleep_on_rank_1" in raised.value.remote_traceback


def emit_now_and_then():
    for step in range(6):
        time.sleep(1)
        emit({"step": step})
    return "done"


def test_events_are_progress():
    assert run(emit_now_and_then, launch=STALL) == ["done", "done"]


def wait_for_a_child():
    return subprocess.run([sys.executable, "-c", "import time\nend = time.time() + 6\nwhile time.time() < end: pass"])


def test_a_childs_work_is_progress():
    launch = LaunchConfig(num_workers=1, local=True, stall_timeout_s=4)
    assert [done.returncode for done in run(wait_for_a_child, launch=launch)] == [0]


def return_while_rank_1_waits():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    hvd.allreduce(tf.constant(1.0), name="first")
    if hvd.rank() == 1:
        hvd.allreduce(tf.constant(1.0), name="second")


def test_a_rank_that_returns_while_others_wait_for_it_is_named():
    with pytest.raises(WorkerError, match="rank 0/2 on .* returned while rank 1 waited in a collective operation"):
        run(return_while_rank_1_waits, launch=TWO)


# A process that leaves the rank's group, session and family, as daemons do.
DAEMON = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nprint(os.getpid(), flush=True)\ntime.sleep(600)"


def start_daemon_and_wait(folder):
    with subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE, start_new_session=True) as started:
        assert started.stdout is not None
        emit({"pid": int(started.stdout.readline())})
    tempfile.mkdtemp()
    (pathlib.Path(folder) / f"up-{world().rank}").touch()
    wait_for_ever()


@pytest.mark.parametrize("victim", ["rank", "reaper"])
def test_nothing_outlives_a_killed_rank_or_its_reaper(victim, tmp_path):
    ranks, daemons = {}, {}

    def on_event(rank, event):
        (daemons if rank in ranks else ranks)[rank] = event["pid"]
        if len(daemons) == 2:
            rank_pid = ranks[1]
            parent = int(pathlib.Path(f"/proc/{rank_pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            os.kill(rank_pid if victim == "rank" else parent, signal.SIGKILL)

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    launch = LaunchConfig(num_workers=2, local=True, env={"TMPDIR": str(temporary)})
    with pytest.raises(WorkerError, match="rank 1/2 on .* died by signal SIGKILL"):
        launch_ranks(with_pid, (start_daemon_and_wait, str(tmp_path)), launch=launch, on_event=on_event)
    assert not list(temporary.iterdir())
    assert len(ranks) == len(daemons) == 2
    wait_until(lambda: not any(map(is_alive, [*ranks.values(), *daemons.values()])), 5)


def test_a_daemon_does_not_outlive_a_rank_that_returns():
    pids = []

    def start_daemon():
        started = subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE)
        emit({"pid": int(started.stdout.readline())})

    launch = LaunchConfig(num_workers=1, local=True)
    launch_ranks(start_daemon, launch=launch, on_event=lambda rank, event: pids.append(event["pid"]))
    assert len(pids) == 1 and not is_alive(pids[0])


def test_32_ranks_return_in_rank_order():
    assert run(lambda: world().rank, launch=LaunchConfig(num_workers=32, local=True)) == list(range(32))
