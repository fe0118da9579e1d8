"""Every way in which a launch can fail: told in time, blamed on the right rank, and nothing left behind.

    .venv/bin/python -m pytest tests/soak/test_launch_faults.py -s

Prints a row for each case; what is wrong with it stands at its end. Some minutes for each launcher.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from launch_faults.table import LAUNCHERS, random_case, table
from launch_faults.trials import trials

pytestmark = pytest.mark.timeout(7200)
RANDOM_CASES = 50
FIRST_SEED = 100


def play(cases, folder) -> None:
    """Play the cases, print each row as it comes, fail at the end with all that was wrong."""
    print("\nlauncher | fault | peer waits in | detected after s | first line")
    wrong = []
    for row in trials(cases, folder):
        print(row, flush=True)
        wrong += [str(row)] if row.wrong else []
    assert not wrong, f"{len(wrong)} of {len(cases)} cases:\n" + "\n".join(wrong)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_fault_is_told_in_time_and_leaves_nothing(launcher, tmp_path) -> None:
    play(table(launcher), tmp_path)


def test_random_faults_in_a_row(tmp_path) -> None:
    first = int(os.environ.get("SPARKDL_SOAK_SEED", FIRST_SEED))
    cases = {seed: random_case(seed) for seed in range(first, first + RANDOM_CASES)}
    for seed, case in cases.items():
        print(f"seed {seed}: {case}")
    # Those of one launcher one after the other, so that they share a session.
    play(sorted(cases.values(), key=lambda case: LAUNCHERS.index(case.launcher)), tmp_path)
