"""Functions that do what few do: the right rank is blamed all the same, and what they return is not lost."""

import atexit
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from sparkdl.errors import WorkerError
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.run import run
from sparkdl.launch.worker import process
from sparkdl.launch.world import world

pytestmark = pytest.mark.timeout(90)
ONE = LaunchConfig(num_workers=1, local=True, log="errors")
TWO = LaunchConfig(num_workers=2, local=True, log="errors")


def fork_and_return(end_of_child):
    child = os.fork()
    if child == 0:
        end_of_child()
        return "the child's"
    _, status = os.waitpid(child, 0)
    return "the rank's", os.waitstatus_to_exitcode(status)


def fail():
    raise ValueError("the child's own")


@pytest.mark.parametrize(
    ("end_of_child", "code"), [(sys.exit, 0), (lambda: sys.exit("no"), 1), (fail, 1), (lambda: None, 0)]
)
def test_a_forked_childs_end_is_not_the_ranks(end_of_child, code, capfd):
    launch = LaunchConfig(num_workers=1, local=True)
    assert run(fork_and_return, end_of_child, launch=launch) == [("the rank's", code)]
    assert ("ValueError: the child's own" in capfd.readouterr().err) is (end_of_child is fail)


def reset_on_rank_0():
    if world().rank == 0:
        raise ConnectionResetError(104, "Connection reset by peer")
    threading.Event().wait()


def test_a_connection_of_the_users_own_that_breaks_is_his_error():
    with pytest.raises(WorkerError, match="rank 0/2 on .* failed: ConnectionResetError: .*Connection reset by peer"):
        run(reset_on_rank_0, launch=TWO)


STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"


def exit_when_the_peer_dies():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    hvd.allreduce(tf.constant(1.0), name="first")
    if world().rank == 1:
        subprocess.Popen([sys.executable, "-c", STUBBORN])
        os.kill(os.getpid(), signal.SIGSEGV)
    try:
        hvd.allreduce(tf.constant(1.0), name="second")
    except Exception:
        sys.exit(1)


def test_a_rank_that_exits_because_its_peer_died_is_not_the_cause():
    with pytest.raises(WorkerError, match="rank 1/2 on .* died by signal SIGSEGV"):
        run(exit_when_the_peer_dies, launch=TWO)


def lose_the_peer_that_exits_when_asked():
    from horovod.common.exceptions import HorovodInternalError

    if world().rank == 1:
        raise HorovodInternalError("Connection closed by peer")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    while True:
        pass


def test_how_a_rank_obeys_when_it_is_stopped_is_no_failure_of_its_own():
    with pytest.raises(WorkerError, match="rank 0/2 on .* stopped answering rank 1 in a collective operation"):
        run(lose_the_peer_that_exits_when_asked, launch=TWO)


def start_short_processes():
    limit = time.monotonic() + 7
    while time.monotonic() < limit:
        subprocess.run(["/bin/sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"], check=True)
    return "done"


def test_the_work_of_short_lived_children_is_progress():
    launch = LaunchConfig(num_workers=1, local=True, stall_timeout_s=4)
    assert run(start_short_processes, launch=launch) == ["done"]


def end_slowly():
    atexit.register(time.sleep, 5)
    return "value"


def test_a_rank_that_has_returned_does_not_stall():
    launch = LaunchConfig(num_workers=1, local=True, stall_timeout_s=2)
    assert run(end_slowly, launch=launch) == ["value"]


def leave_a_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
    return "value"


def test_what_runs_on_after_the_return_is_ended_and_told(monkeypatch, caplog):
    monkeypatch.setattr(process, "EXIT_S", 1.0)
    assert run(leave_a_thread, launch=ONE) == ["value"]
    assert "rank 0 was ended 1 s after its function returned" in caplog.text


class Unloadable:
    def __reduce__(self):
        return sys.exit, ("not here",)


def test_a_value_that_the_driver_cannot_load_names_its_rank():
    with pytest.raises(
        WorkerError, match="rank 0/1 on .* returned a value that the driver cannot load: SystemExit: not"
    ):
        run(Unloadable, launch=ONE)


def test_a_value_that_cannot_be_sent_is_named():
    with pytest.raises(
        WorkerError, match="TypeError: cannot pickle the function's value, of type generator, to send it"
    ):
        run(lambda: (n for n in range(3)), launch=ONE)


def shout():
    raise ValueError("\N{GRINNING FACE}" * 70_000)


def test_a_message_of_any_size_and_script_arrives():
    with pytest.raises(WorkerError, match="rank 0/1 on .* failed: ValueError: \N{GRINNING FACE}"):
        run(shout, launch=ONE)


def close_streams():
    sys.stdout.close()
    sys.stderr = None
    return "value"


def test_a_function_may_close_its_output():
    assert run(close_streams, launch=ONE) == ["value"]


def print_much_and_exit():
    print("x" * 200_000, flush=True)
    os._exit(3)


def test_the_last_lines_in_an_error_are_short():
    with pytest.raises(WorkerError, match="exited with code 3") as raised:
        run(print_much_and_exit, launch=ONE)
    assert 1000 <= len(str(raised.value)) < 10_000


def test_a_file_in_the_working_folder_hides_no_library(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("json", "select", "encodings"):
        (tmp_path / "folder" / f"{name}.py").write_text("raise RuntimeError('not the library')")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sparkdl
        if __name__ == "__main__":
            print(sparkdl.run(len, "four", launch=sparkdl.LaunchConfig(num_workers=1, local=True)))
        """)
    )
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(process.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path / "folder", env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[4]\n", done.stderr
