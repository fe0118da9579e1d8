"""Recognize an exception which only says that the rank lost a peer, by Horovod's types and messages.

Pure; runs in the rank process, where the exception still has its type and its chain of causes.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["only_lost_its_peer"]

# Messages of Horovod's operations, which fail with errors of TensorFlow, about a peer that is gone.
_TENSORFLOW_MARKS = (
    "Horovod has been shut down",
    "HorovodInternalError",
    "Connection closed by peer",
    "Connection reset by peer",
    "/gloo/",
    "Gloo ",
    "[gloo]",
)


def only_lost_its_peer(error: BaseException) -> bool:
    """Tell whether the exception, or one in its chain of causes and contexts, is Horovod's error of a lost peer.

    The message alone proves nothing: a database that is gone resets its connections too.
    """
    return any(_is_horovods(each) for each in _chain(error))


def _is_horovods(error: BaseException) -> bool:
    module, name = type(error).__module__, type(error).__name__
    if module.startswith("horovod."):
        return name == "HorovodInternalError"
    return module.startswith("tensorflow.") and any(mark in str(error) for mark in _TENSORFLOW_MARKS)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        # `raise ... from None` hides the context from tracebacks, and keeps it.
        pending += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
