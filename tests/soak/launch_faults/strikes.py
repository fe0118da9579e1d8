"""What strikes a rank. Runs in the rank processes.

Each function takes the case's folder; where it starts processes, it writes down their ids there.
"""

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import psutil

from launch_faults.marks import note


def raise_value_error(folder):
    raise ValueError("boom")


def sys_exit_4(folder):
    sys.exit(4)


def os_exit_3(folder):
    os._exit(3)


def die_by(number):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), number)
    threading.Event().wait()


def die_by_sigsegv(folder):
    die_by(signal.SIGSEGV)


def die_by_sigabrt(folder):
    die_by(signal.SIGABRT)


def die_by_sigkill(folder):
    die_by(signal.SIGKILL)


def exhaust_memory(folder):
    limit = psutil.Process().memory_info().vms + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    taken = []
    while True:
        taken.append(bytearray(1 << 20))


def stop_itself(folder):
    os.kill(os.getpid(), signal.SIGSTOP)
    threading.Event().wait()  # a launcher may let it go on to ask for its stacks


def sleep_for_ever(folder):
    time.sleep(10_000)


def spin_for_ever(folder):
    while True:
        pass


def wait_for_lock(folder):
    lock = threading.Lock()
    with lock:
        lock.acquire()


def return_early(folder):
    return None


def start_child(folder):
    note(folder, subprocess.Popen(["sleep", "600"]).pid)


def start_session(folder):
    note(folder, subprocess.Popen(["sleep", "600"], start_new_session=True).pid)


def start_daemon(folder):
    command = "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!"
    note(folder, int(subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout))


def raise_after(start):
    def strike(folder):
        start(folder)
        raise ValueError("boom")

    return strike


def kill_ancestor(part):
    """Kill the nearest ancestor whose command line holds this, and wait for what becomes of this process."""

    def strike(folder):
        # Spark's Python worker is a fork of the daemon: both have the daemon's command line.
        next(p for p in psutil.Process().parents() if part in " ".join(p.cmdline())).kill()
        threading.Event().wait()

    return strike
