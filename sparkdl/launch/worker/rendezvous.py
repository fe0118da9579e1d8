"""Serve Horovod's rendezvous: the small HTTP store in which ranks find each other's addresses.

Runs in the Spark worker of rank 0, or on the driver for local ranks; this module imports no TensorFlow.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict

from sparkdl.errors import LaunchError
from sparkdl.imports import missing_horovod
from sparkdl.launch.world import World

__all__ = ["Rendezvous"]


class Rendezvous:
    """Serve the rendezvous, as a context manager, which must stay open until the last rank has ended.

    Horovod's protocol has no secret: the server listens on one address only, on a port that the kernel chooses.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> Rendezvous:
        """Open the server's socket. Raises LaunchError where Horovod is not installed."""
        if problem := missing_horovod():
            raise LaunchError(problem)
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

        # RendezvousServer itself would listen on all interfaces, and never close its socket.
        self._server = RendezvousHTTPServer((self._address, 0), RendezvousHandler, 0)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._server.server_address[1])

    def open(self, worlds: Sequence[World]) -> None:
        """Publish the ranks' worlds. Until this call the ranks find nothing and ask again."""
        from horovod.runner.common.util.hosts import SlotInfo

        slots = map(asdict, worlds)
        self._server.init([SlotInfo(hostname=slot.pop("host"), **slot) for slot in slots])
