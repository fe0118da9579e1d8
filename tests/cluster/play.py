"""What tests do with a cluster: start `driver.py` with steps, wait until training is in mid-epoch, see what it told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from hosts import Host
from standalone import ROOT, SparkCluster

__all__ = ["Play", "await_condition", "losses", "ranks_of"]

DRIVER = str(ROOT / "tests" / "cluster" / "driver.py")
LIMIT_S = 240.0

Step = tuple[str, dict[str, Any]]


def await_condition(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> float:
    """Wait until it holds; the seconds that it took. Raises TimeoutError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() > began + limit_s:
            raise TimeoutError(f"{what}: not within {limit_s:g} s")
        time.sleep(0.05)
    return time.monotonic() - began


def losses(told: dict[str, Any]) -> list[tuple[float, float]]:
    """Loss and validation loss of each epoch, of what a step `fit` told."""
    assert "value" in told, told["error"]
    return [(record["loss"], record["val_loss"]) for record in told["value"]["history"]]


def ranks_of(host: Host) -> list[psutil.Process]:
    """The rank processes that run on a host, and their reapers."""
    found = []
    for process in host.processes():
        try:
            if "HOROVOD_RANK" in process.environ() and "python" in process.name():
                found.append(process)
        except psutil.Error:
            continue
    return found


class Play:
    """A driver program on a cluster: steps of driver.py, in a folder of its own."""

    def __init__(self, cluster: SparkCluster, folder: Path, steps: Sequence[Step], *options: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        (folder / "steps.json").write_text(json.dumps(steps))
        self._output = folder / "output.txt"
        arguments = (*options, DRIVER, str(folder / "steps.json"), str(folder / "told.json"))
        self.process: subprocess.Popen[bytes] = cluster.start_driver(*arguments, cwd=folder, output=self._output)

    @property
    def output(self) -> str:
        """What the driver has printed."""
        return self._output.read_text(errors="replace")

    @property
    def told(self) -> list[dict[str, Any]]:
        """What came of each step that has ended."""
        try:
            return json.loads((self.folder / "told.json").read_text())
        except (FileNotFoundError, ValueError):
            return []

    def await_file(self, path: Path) -> None:
        """Wait for a file; the driver's end without it is an error."""
        await_condition(lambda: path.exists() or self.process.poll() is not None, str(path))
        assert path.exists(), self.output

    def await_words(self, words: str, limit_s: float = LIMIT_S) -> float:
        """Wait until the driver has printed them; the seconds that it took."""
        seconds = await_condition(lambda: words in self.output or self.process.poll() is not None, words, limit_s)
        assert words in self.output, self.output
        return seconds

    def end(self) -> list[dict[str, Any]]:
        """Wait for the driver's end; what all steps told."""
        try:
            assert self.process.wait(timeout=LIMIT_S) == 0, self.output
        finally:
            self.process.kill()
            self.process.wait()
        return self.told
