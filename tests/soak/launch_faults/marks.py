"""What a case leaves in its folder while it is played: when the fault struck, and the processes that must end.

Files, and not messages through the launch that is being tested. Used in the ranks, the driver and the test.
"""

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], object], limit_s: float, pause_s: float = 0.02) -> bool:
    """Whether the condition became true in time."""
    limit = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= limit:
            return False
        time.sleep(pause_s)
    return True


def started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if it is gone or a zombie. A stopped one counts as there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def note(folder: Path, pid: int) -> int:
    """Write down a process that must not live on after the case. Returns its id."""
    with (folder / "pids").open("a") as file:
        file.write(f"{pid} {started(pid)}\n")
    return pid


def noted(folder: Path) -> list[int]:
    """Those of the processes that `note` wrote down that still live; ids are used again soon, so by their start."""
    file = folder / "pids"
    lines = file.read_text().splitlines() if file.exists() else []
    return [int(pid) for pid, ticks in map(str.split, lines) if started(int(pid)) == ticks]


def mark(folder: Path) -> None:
    """Write down when the fault strikes: now."""
    (folder / "time").write_text(repr(time.time()))
    (folder / "time").rename(folder / "struck")


def struck_at(folder: Path) -> float | None:
    """When the fault struck, in seconds since the epoch; None if it has not."""
    try:
        return float((folder / "struck").read_text())
    except FileNotFoundError:
        return None
