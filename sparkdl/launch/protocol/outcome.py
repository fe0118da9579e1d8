"""Choose the rank that caused a failed run, and build the error that names it.

Pure. The rank process recognizes an exception which only says that the rank lost a peer, while the exception still has
its type and its chain of causes; the driver chooses the cause among the outcomes and builds the error.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence

from sparkdl.errors import WorkerError
from sparkdl.launch.protocol.messages import Outcome

__all__ = [
    "RETURNED",
    "choose_cause",
    "headline",
    "is_secondary",
    "lost_peer_error",
    "named",
    "only_lost_its_peer",
    "worker_error",
]

# Gloo prints one of these before it aborts a process that lost its peer.
GLOO_MARKS = ("Connection closed by peer", "Connection reset by peer", "/gloo/", "Gloo ", "[gloo]")
# Horovod's operations fail with errors of TensorFlow, whose messages hold one of these about a peer that is gone.
HOROVOD_MARKS = ("Horovod has been shut down", "HorovodInternalError", *GLOO_MARKS)

HEADLINE_CHARACTERS = 500
RETURNED = "returned while rank {waiting} waited in a collective operation; every rank must call the same ones"


def only_lost_its_peer(error: BaseException) -> bool:
    """Tell whether the exception, or one in its chain of causes and contexts, is Horovod's error of a lost peer.

    The message alone proves nothing: a database that is gone resets its connections too.
    """
    return any(_is_horovods(each) for each in _chain(error))


def _is_horovods(error: BaseException) -> bool:
    module, name = type(error).__module__, type(error).__name__
    if module.startswith("horovod."):
        return name == "HorovodInternalError"
    return module.startswith("tensorflow.") and any(mark in str(error) for mark in HOROVOD_MARKS)


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


def is_secondary(outcome: Outcome, last_lines: Sequence[str] = ()) -> bool:
    """Tell whether a rank failed only because it lost a peer, as far as its exception and last lines show."""
    if outcome.kind == "signal" and outcome.code == signal.SIGABRT:
        # Gloo aborts natively where nothing catches its exception.
        return any(mark in line for mark in GLOO_MARKS for line in last_lines)
    return outcome.lost_peer


def choose_cause(outcomes: Sequence[Outcome], last_lines: Sequence[Sequence[str]] = ()) -> Outcome | None:
    """Choose the outcome to blame: the first failure in time that is not secondary, else the first failure, else None.

    The outcomes are in order of arrival, the last lines that each rank printed in rank order.
    """
    failures = [outcome for outcome in outcomes if outcome.failed]
    lines = dict(enumerate(last_lines))
    primary = [outcome for outcome in failures if not is_secondary(outcome, lines.get(outcome.rank, ()))]
    return next(iter(primary or failures), None)


def headline(outcome: Outcome, size: int) -> str:
    """Return one line that says which rank failed, where and how."""
    return f"{named([outcome.rank], size, outcome.host)} {_what_happened(outcome)}"


def named(ranks: Sequence[int], size: int, host: str) -> str:
    """Return the names of one or several ranks, and the first one's host, for an error message."""
    who = f"rank {ranks[0]}/{size}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} of {size}"
    return f"{who} on {host or 'an unknown host'}"


def _what_happened(outcome: Outcome) -> str:
    if outcome.kind == "exception":
        first_line = (outcome.message.strip().splitlines() or [""])[0][:HEADLINE_CHARACTERS]
        return f"failed: {outcome.error_type}: {first_line}" if first_line else f"failed: {outcome.error_type}"
    if outcome.kind == "signal":
        hint = " (often the kernel's or the container's memory limit)" if outcome.code == signal.SIGKILL else ""
        names = {number.value: number.name for number in signal.Signals}
        return f"died by signal {names.get(outcome.code, outcome.code)}{hint}"
    if outcome.kind == "exit":
        said = f": {outcome.message}" if outcome.message else ""
        return f"exited with code {outcome.code} before its function returned{said}"
    return "was lost: its executor or host died, or the network to it broke"


def worker_error(
    outcome: Outcome, size: int, last_lines: Sequence[str], *, why: str = "", log: str = ""
) -> WorkerError:
    """Build the error for the driver: the headline, then the traceback, or the last lines if it is missing.

    `why` is Spark's reason why the rank was lost, `log` the path of the rank's whole output; each may be "".
    """
    lines = "\n".join(last_lines)
    message = headline(outcome, size)
    if why:
        message += f" ({why})"
    if outcome.traceback:
        message += f"\n\n{outcome.traceback.rstrip()}"
    elif lines:
        message += f"\n\nits last {len(last_lines)} lines:\n{lines}"
    if log:
        message += f"\n\nits whole output: {log}"
    return WorkerError(
        message,
        rank=outcome.rank,
        host=outcome.host,
        remote_traceback=outcome.traceback,
        last_lines=lines,
        kind=outcome.kind,
    )


def lost_peer_error(
    waiting: Outcome, size: int, hosts: Mapping[int, str], *, returned: Sequence[int], silent: Sequence[int]
) -> WorkerError:
    """Build the error for a run in which every failed rank only lost its peer, and the peer itself did not fail.

    `waiting` is the first rank that lost its peer, and not to blame; `silent` ranks neither failed nor returned.
    """
    if returned:
        who = returned
        what = RETURNED.format(waiting=waiting.rank)
    else:
        who = silent
        what = f"stopped answering rank {waiting.rank} in a collective operation: the network between them broke"
    traceback = waiting.traceback.rstrip()
    host = hosts.get(who[0], "")
    message = f"{named(who, size, host)} {what}"
    if traceback:
        message += f"\n\nrank {waiting.rank} said:\n{traceback}"
    kind = "returned" if returned else "lost"
    return WorkerError(message, rank=who[0], host=host, remote_traceback=traceback, kind=kind)
