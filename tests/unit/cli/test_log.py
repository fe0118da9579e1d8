"""The log of a job for machines."""

import json
import logging
import subprocess
import sys

import pytest

from sparkdl.cli.log import JsonLines

SPEAK = """
import logging, sys
from sparkdl.cli.log import JobLog
log = JobLog(sys.argv[1])
logging.getLogger("sparkdl.train").info("epoch %d", 1)
logging.getLogger("other").info("not told")
log.tell("model m", {"loss": 0.5})
log.fail("no slots", 2)
"""


def test_a_record_is_one_object_on_one_line() -> None:
    record = logging.LogRecord("sparkdl.x", logging.WARNING, "file", 1, "two\nlines %s", ("a",), None)
    line = JsonLines().format(record)
    told = json.loads(line)
    assert "\n" not in line and told["message"] == "two\nlines a" and told["level"] == "WARNING"
    assert told["time"].endswith("+00:00")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_job_speaks_in_one_form(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", SPEAK, form], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    if form == "text":
        assert done.stdout == "model m\n"
        assert done.stderr == "INFO sparkdl.train: epoch 1\nerror: no slots\n"
        return
    epoch, model, error = map(json.loads, done.stderr.splitlines())
    assert epoch["message"] == "epoch 1" and (model["message"], model["loss"]) == ("model m", 0.5)
    assert (error["level"], error["exit_code"]) == ("ERROR", 2)
