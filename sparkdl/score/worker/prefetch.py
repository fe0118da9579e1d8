"""Prefetch the items of an iterator in a background thread.

Runs in Spark workers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(source: Iterable[T]) -> Iterator[T]:
    """Yield the items of `source`, in order; the next item is made while the caller processes the current one.

    Beside the current item at most one is ready or in the making. An error of the source is raised where its item would
    have come. When the caller stops before the end, the source stops after the item that it is making.
    """
    # Each item in a tuple; at the end the error that ended the source, or None.
    ready: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    slots, stopped = threading.Semaphore(0), threading.Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            for item in source:
                ready.put((item,))
                slots.acquire()
                if stopped.is_set():
                    return
        except BaseException as caught:
            error = caught
        ready.put(error)

    # A daemon, since the thread may wait for rows that never come when Spark ends a task early.
    threading.Thread(target=work, name="sparkdl-ahead", daemon=True).start()
    try:
        while isinstance(made := ready.get(), tuple):
            slots.release()
            yield made[0]
        if made is not None:
            raise made
    finally:
        stopped.set()
        slots.release()
