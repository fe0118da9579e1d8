"""Count what goes over the wire to an object store: a proxy in front of a server on loopback."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit


class CountingStore:
    """Hand requests on to a server, count them by method, and the bytes of the bodies that come back.

    Args:
        target: the server's URL.
        delay_s: seconds that pass before a request is handed on: the latency of a store that is far away.
    """

    def __init__(self, target: str, *, delay_s: float = 0.0) -> None:
        self.requests: Counter[str] = Counter()
        self.sent = 0
        self._lock = threading.Lock()
        counts, host = self, urlsplit(target).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def hand_on(self) -> None:
                time.sleep(delay_s)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                connection = http.client.HTTPConnection(host, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                with counts._lock:
                    counts.requests[self.command] += 1
                    counts.sent += len(content)
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                connection.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = hand_on

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = "http://{}:{}".format(*self._server.server_address[:2])

    def reset(self) -> None:
        """Count from 0 again."""
        with self._lock:
            self.requests.clear()
            self.sent = 0

    def __enter__(self) -> CountingStore:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
