"""Hosts of their own: each has its name, address, files and processes; nothing is left of them."""

import signal
import subprocess
import sys

import psutil
import pytest

from hosts import Network, missing
from paths import TESTS
from processes import is_alive, wait_until

CLUSTER = TESTS / "cluster"
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

WHO = """
import os, socket, sys
print(socket.gethostname(), socket.gethostbyname(socket.gethostname()), len(os.listdir(sys.argv[1])))
"""
SERVE = (
    "import socket; s = socket.create_server(('', 7000)); print('up', flush=True)\nwhile True: s.accept()[0].close()"
)
CALL = "import socket, sys; socket.create_connection((sys.argv[1], 7000), timeout=0.5)"
OWNER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hosts import Network
with Network(Path(sys.argv[2])) as network:
    host = network.add("alpha")
    host.popen(["setsid", "sleep", "1000"], cwd=Path("/"))
    while not host.processes(): time.sleep(0.01)
    print(*[p.pid for p in host.processes()], host.pid, flush=True)
    time.sleep(1000)
"""


def test_hosts_know_themselves_and_each_other_and_links_can_be_cut(tmp_path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "file").write_text("")

    def call(place: str) -> bool:
        return beta.run([sys.executable, "-c", CALL, place], cwd=tmp_path).returncode == 0

    interfaces = set(psutil.net_if_addrs())
    with Network(tmp_path / "hosts") as network:
        alpha = network.add("alpha", hidden=[hidden])
        beta = network.add("beta", own_name="127.0.1.1")
        who = [sys.executable, "-c", WHO, str(hidden)]
        assert alpha.run(who, cwd=tmp_path).stdout.split() == ["alpha", alpha.address, "0"]
        assert beta.run(who, cwd=tmp_path).stdout.split() == ["beta", "127.0.1.1", "1"]
        server = alpha.popen([sys.executable, "-c", SERVE], cwd=tmp_path, stdout=subprocess.PIPE)
        assert server.stdout.readline() == b"up\n"
        assert call("alpha") and call(alpha.address) and not call("localhost")
        network.cut("alpha")
        assert not call("alpha") and len(alpha.processes()) == 1
        network.join("alpha")
        assert call("alpha")
        (process,) = alpha.processes()
        process.send_signal(signal.SIGSTOP)
        network.power_off("alpha")
        assert not call("alpha") and not alpha.is_up and not is_alive(alpha.pid)
        server.wait()
        server.stdout.close()
        assert set(psutil.net_if_addrs()) == interfaces
    assert not is_alive(beta.pid)


def test_a_killed_owner_leaves_nothing(tmp_path) -> None:
    command = [sys.executable, "-c", OWNER, str(CLUSTER), str(tmp_path / "hosts")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        processes = list(map(int, owner.stdout.readline().split()))
        assert len(processes) == 2 and all(map(is_alive, processes))
        owner.kill()
    wait_until(lambda: not any(map(is_alive, processes)))
