"""The fork server: ranks that it forks, and what happens when it does not answer."""

import os
import pickle
import signal

import cloudpickle
import pytest

from processes import is_alive, wait_until
from sparkdl.launch.protocol.messages import Outcome
from sparkdl.launch.worker.fork_server.client import ForkServer
from sparkdl.launch.worker.process import RankProcess
from sparkdl.launch.world import World, world_environment

WORLD = World(rank=0, size=1)
# With another backend the fork server loads no library.
ENV = {**os.environ, **world_environment(WORLD), "KERAS_BACKEND": "torch"}


def value_of(forks):
    """The value of a rank that the fork server forks: its process id and that of the fork server."""

    def parents():
        with open(f"/proc/{os.getppid()}/stat") as file:
            return os.getpid(), int(file.read().rsplit(")", 1)[1].split()[1])

    said = []
    task = cloudpickle.dumps((parents, (), {}))
    with RankProcess(WORLD, task=task, env=ENV, report=said.append, log=None, start=forks.fork) as process:
        process.wait()
        assert isinstance(said[-1], Outcome) and said[-1].kind == "value", said
        return pickle.load(process.result)


def test_a_fork_server_that_does_not_answer_is_told_in_time_and_replaced() -> None:
    with ForkServer(limit_s=2) as forks:
        (rank, server), (other, same) = value_of(forks), value_of(forks)
        assert rank != other and server == same
        os.kill(server, signal.SIGSTOP)
        with pytest.raises(OSError, match="the fork server forks no rank: timed out"):
            value_of(forks)
        assert not is_alive(server)
        _, new = value_of(forks)  # and not the answer to the request before
        assert new != server
        os.kill(new, signal.SIGKILL)
        _, newer = value_of(forks)
    assert len({server, new, newer}) == 3
    wait_until(lambda: not is_alive(newer))
