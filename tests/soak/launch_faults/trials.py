"""Play cases one after the other, and see what each one told and left. Runs in the test's process.

    cd tests/soak; python -m launch_faults.trials LAUNCHER [PART OF A FAULT'S NAME]

prints a part of the table.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from launch_faults.marks import mark, struck_at, wait_until
from launch_faults.play import WAIT_LIMIT_S
from launch_faults.process import Driver, StartError, end, left_behind
from launch_faults.table import Case, table
from launch_faults.verdict import complaints, first_line

# How much later than it should an error is still waited for: the table then says how late it was.
PATIENCE_S = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one case: its error's first line, and all that was wrong.

    `detected_s` is from the fault to the error; to the last process's end where no driver is left to raise one.
    """

    case: Case
    detected_s: float | None
    line: str
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        case = self.case
        after = "-" if self.detected_s is None else f"{self.detected_s:.1f}"
        place = f"{case.peer}{'' if case.rank else ', rank 0 fails'}{f', {case.delay_s:.1f} s' if case.delay_s else ''}"
        end = f"  << {'; '.join(self.wrong)}" if self.wrong else ""
        return f"{case.launcher} | {case.fault} | {place} | {after} | {self.line[:160]}{end}"


def machine_names() -> set[str]:
    """The names and addresses that this machine may have."""
    addresses = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    return {"localhost", socket.gethostname(), socket.getfqdn(), *addresses}


def strike_from_outside(driver: Driver, case: Case, folder: Path) -> None:
    """Interrupt or kill the driver once the ranks are at their places."""
    if not wait_until(lambda: (folder / "ready").exists() or driver.ended, WAIT_LIMIT_S):
        return
    mark(folder)
    if case.what.ends == "killed":
        driver.process.kill()
    else:  # what a terminal does: the driver's whole process group gets it
        os.killpg(driver.process.pid, signal.SIGINT)


def awaited(driver: Driver, case: Case, folder: Path, target: Path) -> dict:
    """What the driver said; nothing if it ended, or is late by more than patience allows."""

    def over() -> bool:
        struck = struck_at(folder)
        late = struck is not None and time.time() > struck + case.limit_s + PATIENCE_S
        return late or target.exists() or driver.ended

    wait_until(over, WAIT_LIMIT_S + case.limit_s + PATIENCE_S)
    return json.loads(target.read_text()) if target.exists() else {}


def trial(driver: Driver, case: Case, folder: Path) -> tuple[Row, bool]:
    """Play one case. Returns what came of it, and whether the driver can be used on."""
    folder.mkdir()
    before = driver.footprint()
    target = driver.send({"case": dataclasses.asdict(case), "folder": str(folder)})
    if case.what.by == "outside":
        strike_from_outside(driver, case, folder)
    answer = awaited(driver, case, folder, target)
    left = left_behind(driver, before, folder) if answer or driver.ended else []
    struck, told = struck_at(folder), answer.get("at")
    if case.what.ends == "killed":
        told = time.time()
    detected_s = None if struck is None or told is None else told - struck
    wrong = complaints(case, answer, detected_s, machine_names()) + [f"left behind: {thing}" for thing in left]
    end(left)
    problem = driver.next_run() if answer else ""
    if problem:
        wrong.append(f"the next run failed: {problem}")
    usable = bool(answer) and not problem
    if not usable:
        driver.process.kill()
    return Row(case=case, detected_s=detected_s, line=first_line(answer), wrong=tuple(wrong)), usable


def trials(cases: Iterable[Case], folder: Path) -> Iterator[Row]:
    """Play cases, those of one launcher in one session as far as it lives; each row as it comes."""
    with contextlib.ExitStack() as stack:
        driver, launcher = None, None
        for number, case in enumerate(cases):
            if driver is None or case.launcher != launcher:
                stack.close()
                launcher = case.launcher
                try:
                    driver = stack.enter_context(Driver(launcher, folder / f"driver-{number}"))
                except StartError as error:
                    driver = None
                    yield Row(case=case, detected_s=None, line="-", wrong=(str(error),))
                    continue
            row, usable = trial(driver, case, folder / f"case-{number}")
            driver = driver if usable else None
            yield row


def main() -> None:
    launcher, part = sys.argv[1], "".join(sys.argv[2:3])
    folder = tempfile.mkdtemp(prefix="sparkdl-faults-")
    print(f"logs in {folder}")
    for row in trials([case for case in table(launcher) if part in case.fault], Path(folder)):
        print(row, flush=True)


if __name__ == "__main__":
    main()
