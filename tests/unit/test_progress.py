"""What a user sees of a run: a bar in a terminal, a line for each epoch."""

import logging
import os
import pty
import subprocess
import sys

import pytest

from sparkdl.progress import TrainingProgress, epoch_line

EPOCH = {
    "kind": "epoch",
    "epoch": 2,
    "epochs": 10,
    "loss": 0.4125,
    "val_loss": 0.431,
    "lr": 0.1,
    "seconds": 18.2,
    "rows_per_second": 41200.0,
    "data_wait_seconds": 0.3,
}
IN_A_TERMINAL = """
from sparkdl.progress import TrainingProgress
with TrainingProgress() as progress:
    for step in (1, 2, 3):
        progress.on_event(0, dict(kind="step", epoch=0, epochs=1, step=step, steps=3, loss=0.5, rows_per_second=1234.0))
"""


def test_an_epoch_is_one_line() -> None:
    assert epoch_line(EPOCH) == "epoch 3/10  loss 0.4125  val_loss 0.431  18.2 s  41,200 rows/s  data wait 0.3 s"


def test_without_a_terminal_epochs_go_to_the_log_and_no_bar_is_drawn(caplog, capfd) -> None:
    with caplog.at_level(logging.INFO, logger="sparkdl.progress"), TrainingProgress() as progress:
        progress.on_event(0, {"kind": "step"})
        progress.on_event(0, EPOCH)
        progress.on_event(0, {"kind": "of someone else"})
    assert caplog.messages == [epoch_line(EPOCH)] and capfd.readouterr() == ("", "")


def test_a_terminal_shows_epoch_step_loss_and_speed_even_if_it_gives_no_size() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", IN_A_TERMINAL], stderr=theirs, timeout=60, check=True)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0
    assert "epoch 1/1" in shown and "3/3" in shown and "loss 0.5, 1,234 rows/s" in shown


PLAIN = """
{setup}
from sparkdl.progress import TrainingProgress
with TrainingProgress() as progress:
    progress.on_event(0, {epoch!r})
"""


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        ("", epoch_line(EPOCH)),
        ("import logging; logging.basicConfig(level='INFO', format='log: %(message)s')", f"log: {epoch_line(EPOCH)}"),
        # Who set up logging without INFO wants no lines.
        ("import logging; logging.basicConfig()", ""),
        ("from sparkdl.cli.log import JobLog; JobLog('text')", f"INFO sparkdl.progress: {epoch_line(EPOCH)}"),
    ],
)
def test_a_program_whose_output_is_no_terminal_shows_each_epoch_once(setup, expected) -> None:
    program = PLAIN.format(setup=setup, epoch=EPOCH)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr.strip()) == ("", expected)
