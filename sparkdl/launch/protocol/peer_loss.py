"""Whether an exception only says that the rank lost a peer, in Horovod's words or in TensorFlow's for them.

Pure; runs in the rank process, where the exception still has its type and what led to it.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["only_lost_its_peer"]

# What Horovod's operations, which fail with errors of TensorFlow, say of a peer that is gone.
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
    """Whether the exception, or one that it was raised for or in the handling of, is Horovod's of a lost peer.

    The words alone tell nothing: a database that is gone resets its connections too.
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
