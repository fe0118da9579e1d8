"""Where everything of a training run lies, and whether it can go on. Each path of a run is built here and nowhere else.

Used on the driver and in ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sparkdl import storage
from sparkdl.errors import CheckpointError, shown
from sparkdl.format_version import check_format_version
from sparkdl.train.checkpoint import Position, committed_checkpoints, read_checkpoint
from sparkdl.train.recorded import Recorded

__all__ = ["RunDir", "first_difference"]

FORMAT_VERSION = 1
_NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder or URL of one run."""

    path: str

    @property
    def model(self) -> str:
        """The model directory."""
        return storage.join(self.path, "model")

    @property
    def best_model(self) -> str:
        """The model directory of the best epoch, where one is looked for."""
        return storage.join(self.path, "best-model")

    @property
    def checkpoints(self) -> str:
        """The folder of the checkpoints."""
        return storage.join(self.path, "checkpoints")

    @property
    def logs(self) -> str:
        """The ranks' output, a folder for each launch."""
        return storage.join(self.path, "logs")

    @property
    def tensorboard(self) -> str:
        """The figures of epochs for TensorBoard."""
        return storage.join(self.path, "tensorboard")

    @property
    def record(self) -> str:
        """What the run trains on and how, as JSON: another one must not go on here."""
        return storage.join(self.path, "run.json")

    @property
    def history(self) -> str:
        """The history as JSON: a list of dicts, one per epoch."""
        return storage.join(self.path, "history.json")

    @property
    def driver(self) -> str:
        """Which driver trains the run now; not there while none does."""
        return storage.join(self.path, "driver.json")

    @property
    def ranks(self) -> str:
        """The figures of each rank as JSON: a list of dicts, one per epoch, as in `Recorded.ranks`."""
        return storage.join(self.path, "ranks.json")

    @property
    def report(self) -> str:
        """The run as an HTML page."""
        return storage.join(self.path, "report.html")

    @property
    def finished(self) -> str:
        """There once the run is finished: after how many epochs, as JSON."""
        return storage.join(self.path, "finished.json")

    def begin(self, record: Mapping[str, Any], resume: str, defaults: Mapping[str, Any] = _NO_DEFAULTS) -> None:
        """Make the folder for a new run, or see that it holds the same one. Arguments and errors as in `check`."""
        if self.check(record, resume, defaults):
            return
        try:
            storage.make_folder(self.path)
            storage.write_atomic(self.record, json.dumps({"format_version": FORMAT_VERSION, **record}).encode())
        except OSError as error:
            raise CheckpointError(f"run_dir={self.path} cannot be written: {error}") from error

    def check(self, record: Mapping[str, Any], resume: str, defaults: Mapping[str, Any] = _NO_DEFAULTS) -> bool:
        """Whether the folder holds this very run; False where it holds nothing.

        Args:
            record: what the run trains on and how.
            resume: `TrainConfig.resume`.
            defaults: by option, what stands for one that the run's version of sparkdl did not know.

        Raises CheckpointError if it holds anything else, or what `resume` does not allow.
        """
        names = storage.listing(self.path)
        if not names:
            if resume == "must":
                raise CheckpointError(f"run_dir={self.path} holds no run to continue, as resume='must' wants")
            return False
        if resume == "never" or "run.json" not in names:
            raise CheckpointError(
                f"run_dir={self.path} already holds {shown(names[0])}; choose a new folder for each run"
            )
        found = self._read(self.record)
        check_format_version(found, path=self.record, newest=FORMAT_VERSION, error=CheckpointError)
        found = {**found, "config": {**defaults, **found["config"]}}
        # Through JSON, as the other one went.
        difference = first_difference(found, json.loads(json.dumps({"format_version": FORMAT_VERSION, **record})))
        if difference is not None:
            raise CheckpointError(f"run_dir={self.path} holds another run: {difference}; choose a new folder for it")
        if resume == "must" and not storage.exists(self.finished) and self.latest_checkpoint() is None:
            raise CheckpointError(f"run_dir={self.path} has no checkpoint to continue from, as resume='must' wants")
        return True

    def result(self, epochs: int) -> list[dict[str, Any]] | None:
        """The history of the run if it is finished, with so many epochs asked for.

        Raises CheckpointError if it has gone beyond them: epochs may grow, and are not taken back.
        """
        if storage.exists(self.finished) and self._read(self.finished)["epochs"] == epochs:
            return list(self._read(self.history))
        latest = self.latest_checkpoint()
        done = Position() if latest is None else read_checkpoint(latest).position
        if done > Position(epochs):
            raise CheckpointError(
                f"epochs={epochs} but run_dir={self.path} has trained until {done} already; ask for at least "
                f"{done.epoch + (done.step > 0)} epochs, or choose a new folder"
            )
        return None

    def finish(self, recorded: Recorded, epochs: int) -> None:
        """Keep what was recorded, and that the run is finished."""
        storage.write_atomic(self.ranks, json.dumps(recorded.ranks).encode())
        storage.write_atomic(self.history, json.dumps(recorded.history, indent=1).encode())
        storage.write_atomic(self.finished, json.dumps({"epochs": epochs}).encode())

    def latest_checkpoint(self) -> str | None:
        """The newest committed checkpoint, or None."""
        return next(reversed(committed_checkpoints(self.checkpoints)), None)

    def _read(self, path: str) -> Any:
        try:
            return json.loads(storage.read_bytes(path))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Where two JSON values differ first, as `config.seed was 1, is 2`; None if they do not."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            place = f"{path}.{key}" if path else str(key)
            if key not in old or key not in new:
                return f"{place} {'is new' if key not in old else 'is gone'}"
            if found := first_difference(old[key], new[key], place):
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        differences = (first_difference(one, other, f"{path}[{place}]") for place, (one, other) in pairs)
        return next((difference for difference in differences if difference), None)
    return None if old == new else f"{path} was {shown(old)}, is {shown(new)}"
