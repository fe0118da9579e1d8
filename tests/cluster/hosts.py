"""Hosts of their own on this machine, joined by a switch: each has its processes, name, network and mounts for itself.

A host is a set of Linux namespaces (process ids, network, host name, mounts) around one first process; the file system
is shared. The switch is a host too, so that this machine's own network has no part in it and nothing outside can be
reached. The first process of each host lives as long as a pipe of whoever made it is open: when that process ends, by
`kill -9` too, the kernel ends everything in the host, and with it the namespaces, links and mounts. Nothing has a name
that could be left behind.

Needs root and the program `ip` (Debian: iproute2). `missing()` says what is not there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Host", "Network", "missing"]

# Reserved for documentation (RFC 5737): nobody's addresses.
SUBNET = "198.51.100"
FIRST_ADDRESS = 10
BRIDGE = "bridge"
READY = b"ready\n"
END_LIMIT_S = 10.0


def missing() -> str:
    """What this machine lacks for hosts of its own, in one line; nothing if they can be made."""
    if os.geteuid() != 0:
        return "hosts of their own need root (network namespaces)"
    tools = [tool for tool in ("ip", "tc", "nsenter", "unshare", "setpriv") if shutil.which(tool) is None]
    if tools:
        return f"hosts of their own need {', '.join(tools)}; run: apt-get install iproute2 util-linux"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return f"namespaces cannot be made here: {tried.stderr.decode().strip()}" if tried.returncode else ""


class Host:
    """A running host. Made by `Network.add`."""

    def __init__(self, name: str, address: str, hosts_file: Path, hidden: Sequence[Path]) -> None:
        self.name = name
        self.address = address
        self.hosts_file = hosts_file
        command = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += [sys.executable, "-I", __file__, name, str(hosts_file), *map(str, hidden)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != READY:
            raise RuntimeError(f"host {name} did not start")
        (child,) = psutil.Process(self._process.pid).children()
        self.pid = child.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._started: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"Host({self.name}, {self.address})"

    def popen(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a program in the host. It is killed when the process that is returned is."""
        # Entering the mounts leads to their root; the folder is looked up behind it, so that hidden ones are hidden.
        inside = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", 'cd "$0" && exec "$@"', str(cwd), *command]
        started = subprocess.Popen([*self._enter(), *inside], env=env, **options)
        self._started.append(started)
        return started

    def run(self, command: Sequence[str], *, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in the host to its end; its output and its errors are told as one text."""
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        timeout = options.pop("timeout", None)
        with self.popen(command, cwd=cwd, **both, **options) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                raise TimeoutError(f"{command[0]} on {self.name} took over {timeout} s; it said:\n{output}") from None
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, output)

    def ip(self, *arguments: str) -> None:
        """Run `ip` in the host's network."""
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", "ip", *arguments], check=True)

    def tc(self, *arguments: str) -> None:
        """Run `tc` in the host's network."""
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", "tc", *arguments], check=True)

    def processes(self) -> list[psutil.Process]:
        """The host's processes but the first one, as this machine sees them; none of one that was killed."""
        if not self.is_up:
            return []
        space = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                same = os.stat(f"/proc/{process.pid}/ns/pid").st_ino == space
                if same and process.pid != self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    @property
    def is_up(self) -> bool:
        """Whether it has not been killed."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End all its processes at once; whoever calls has cut its link, if nobody is to hear of it."""
        if not self.is_up:
            return
        # The kernel kills the first process with its parent, and that one has ended when all others have.
        self._process.kill()
        self._process.wait()
        # nsenter stops with its child, and does not go on, nor collect it, when that one is killed.
        for started in self._started:
            started.kill()
            started.wait()
        select.select([self._pidfd], [], [], END_LIMIT_S)
        os.close(self._pidfd)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", "-u", "-i", "-m", "-p"]


class Network:
    """A switch and the hosts on it. A context manager; at its end nothing of them is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Network:
        self._folder.mkdir(parents=True, exist_ok=True)
        empty = self._folder / "switch.hosts"
        empty.write_text("")
        self._switch = Host("switch", "", empty, ())
        self._switch.ip("link", "add", BRIDGE, "type", "bridge")
        self._switch.ip("link", "set", BRIDGE, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in (*self.hosts.values(), self._switch):
            host.kill()

    def add(self, name: str, *, own_name: str | None = "", hidden: Sequence[Path] = ()) -> Host:
        """Start a host; all others know its name from now on.

        Args:
            name: at most 15 characters: its link at the switch has the same name.
            own_name: what its own name resolves to there: its address, unless another one is given; None: nothing.
            hidden: folders that are empty in this host.
        """
        address = f"{SUBNET}.{FIRST_ADDRESS + len(self.hosts)}"
        known = {"localhost": "127.0.0.1", **{host.name: host.address for host in self.hosts.values()}}
        own = address if own_name == "" else own_name
        if own is not None:
            known[name] = own
        hosts_file = self._folder / f"{name}.hosts"
        hosts_file.write_text("".join(f"{place} {who}\n" for who, place in known.items()))
        host = Host(name, address, hosts_file, hidden)
        ends = ("type", "veth", "peer", "name", name, "netns", str(self._switch.pid))
        host.ip("link", "add", "eth0", *ends)
        self._switch.ip("link", "set", "dev", name, "master", BRIDGE, "up")
        host.ip("addr", "add", f"{address}/24", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        for other in self.hosts.values():
            with other.hosts_file.open("a") as file:  # the same file: it is mounted over the host's own
                file.write(f"{address} {name}\n")
        self.hosts[name] = host
        return host

    def cut(self, name: str) -> None:
        """Pull the host's plug at the switch: its processes run on, nothing reaches them, nobody is told."""
        self._switch.ip("link", "set", "dev", name, "down")

    def join(self, name: str) -> None:
        """Put the plug in again."""
        self._switch.ip("link", "set", "dev", name, "up")

    def power_off(self, name: str) -> None:
        """End a host without a word to the others, as a power cut does."""
        self.cut(name)
        self.hosts[name].kill()

    @contextlib.contextmanager
    def slow(self, name: str, *, rate: str = "20mbit") -> Iterator[None]:
        """Limit a host's link to this rate in both directions."""
        shape = ("root", "tbf", "rate", rate, "burst", "32kbit", "latency", "200ms")
        self._switch.tc("qdisc", "add", "dev", name, *shape)
        self.hosts[name].tc("qdisc", "add", "dev", "eth0", *shape)
        try:
            yield
        finally:
            self._switch.tc("qdisc", "del", "dev", name, "root")
            self.hosts[name].tc("qdisc", "del", "dev", "eth0", "root")


def _be_host(name: str, hosts_file: str, *hidden: str) -> None:
    """The first process of a host: set it up, then live until the pipe from its maker ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sethostname(name.encode(), len(name)):
        raise OSError(ctypes.get_errno(), "sethostname")
    subprocess.run(["mount", "--bind", hosts_file, "/etc/hosts"], check=True)
    for folder in filter(os.path.isdir, hidden):  # one within another is gone with it
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the host end as nobody's children
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(1, READY)
    while os.read(0, 4096):
        pass


if __name__ == "__main__":
    _be_host(*sys.argv[1:])
