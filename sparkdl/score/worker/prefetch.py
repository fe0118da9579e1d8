"""Let an iterator work ahead in a thread of its own.

Runs in Spark workers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


class _End:
    """The source has ended, by an error of its own if there is one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(source: Iterable[T]) -> Iterator[T]:
    """The items of `source`, in order, the next one made while the current one is worked on.

    Beside the current item there is one at most, ready or in the making. An error of the source is raised where its
    item would have come. When the caller stops before the end, the source is left after the item that it is at.
    """
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    places, stopped = threading.Semaphore(0), threading.Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            for item in source:
                ready.put(item)
                places.acquire()
                if stopped.is_set():
                    return
        except BaseException as caught:
            error = caught
        ready.put(_End(error))

    # A daemon: it may wait for rows that never come when Spark ends a task early.
    threading.Thread(target=work, name="sparkdl-ahead", daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            places.release()
            yield item
    finally:
        stopped.set()
        places.release()
