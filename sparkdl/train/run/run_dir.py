"""Build every path of a training run, here and nowhere else, and check whether the run can be continued.

Used on the driver and in ranks.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sparkdl import storage
from sparkdl.differences import first_difference
from sparkdl.errors import CheckpointError, shown
from sparkdl.storage.format_version import check_format_version
from sparkdl.train.run.checkpoint import Position, committed_checkpoints, read_checkpoint, read_json
from sparkdl.train.run.record import Recorded

__all__ = ["WAYS_OUT", "RunDir"]

FORMAT_VERSION = 1
# The end of messages about a folder that holds another run.
WAYS_OUT = "choose another run_dir, or resume='replace', which keeps the old run aside until the new one has finished"
_BEGUN_BY = "begun_by"
_NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})


class _Within:
    """Build the path of a file or folder in a run's folder, as an attribute of `RunDir`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: RunDir, kind: type) -> str:
        return storage.join(run.path, self._name)


@dataclass(frozen=True, slots=True)
class RunDir:
    """Describe the folder or URL of one run.

    Attributes:
        model, best_model: the model directories of the last epoch and, if a metric is monitored, of the best one.
        checkpoints: the folder of the checkpoints.
        logs: the ranks' output, a folder for each launch.
        tensorboard: the metrics of epochs for TensorBoard.
        record: the run's record as JSON: the data and options; a call with another record must not continue the run.
        code: the description of what made the run (`MadeBy`), as JSON.
        driver: the file that names the driver which trains the run now; absent while no driver does.
        initial: the layers that started from `initial_model` with initial_weights="matching", as JSON.
        best: the epoch and metric of `best_model` (`Best`), as JSON; absent while the model is written.
        history, ranks: the lists of `Recorded`, as JSON.
        report: the run as an HTML page.
        finished: the number of epochs as JSON; the file exists once the run is finished.
    """

    path: str

    model = _Within("model")
    best_model = _Within("best-model")
    checkpoints = _Within("checkpoints")
    logs = _Within("logs")
    tensorboard = _Within("tensorboard")
    record = _Within("run.json")
    code = _Within("code.json")
    driver = _Within("driver.json")
    initial = _Within("initial.json")
    best = _Within("best.json")
    history = _Within("history.json")
    ranks = _Within("ranks.json")
    report = _Within("report.html")
    finished = _Within("finished.json")

    def asides(self) -> Iterator[str]:
        """Yield the folders for replaced runs, beside this one; they are kept until the new run has finished."""
        yield f"{self.path}.replaced"
        yield from (f"{self.path}.replaced-{number}" for number in itertools.count(2))

    def begin(self, record: Mapping[str, Any], *, resume: str = "auto") -> None:
        """Make the folder for a new run that a call with `resume` begins. Raises CheckpointError if it cannot."""
        try:
            storage.make_folder(self.path)
            content = {"format_version": FORMAT_VERSION, _BEGUN_BY: resume, **record}
            storage.write_atomic(self.record, json.dumps(content).encode())
        except OSError as error:
            raise CheckpointError(f"run_dir={self.path} cannot be written: {error}") from error

    def check(
        self,
        record: Mapping[str, Any],
        resume: str,
        defaults: Mapping[str, Any] = _NO_DEFAULTS,
        upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> bool:
        """Tell whether the folder holds this very run; False if it is empty.

        Args:
            resume: `TrainConfig.resume`.
            defaults: by option, the value of an option that the run's version of sparkdl did not know.
            upgrade: turns options that an older version recorded into those that this version records.

        Raises CheckpointError if the folder holds anything else, or what `resume` does not allow.
        """
        names = storage.listing(self.path)
        if not names:
            if resume == "must":
                raise CheckpointError(
                    f"run_dir={self.path} holds no run to continue, as resume='must' wants; use resume='auto' to begin "
                    "one"
                )
            return False
        if "run.json" not in names:
            raise CheckpointError(
                f"run_dir={self.path} already holds {shown(names[0])}, and no run; choose another run_dir"
            )
        if resume == "never":
            raise CheckpointError(f"run_dir={self.path} already holds a run, and resume='never' refuses it; {WAYS_OUT}")
        found = read_json(self.record)
        check_format_version(found, path=self.record, newest=FORMAT_VERSION, error=CheckpointError)
        found = {name: part for name, part in found.items() if name != _BEGUN_BY}
        found |= {"config": upgrade({**defaults, **found["config"]})}
        # Through JSON, like the record that was read.
        difference = first_difference(found, json.loads(json.dumps({"format_version": FORMAT_VERSION, **record})))
        if difference is not None:
            raise CheckpointError(f"run_dir={self.path} holds another run: {difference}; {WAYS_OUT}")
        if resume == "must" and not storage.exists(self.finished) and self.latest_checkpoint() is None:
            raise CheckpointError(
                f"run_dir={self.path} has no checkpoint to continue from, as resume='must' wants; use resume='auto' to "
                "begin again"
            )
        return True

    def begun_by(self) -> str:
        """Return `TrainConfig.resume` of the call that began the run."""
        return str(read_json(self.record).get(_BEGUN_BY, "auto"))

    def ways_out(self) -> str:
        """Say what a user can do if the folder holds another, unfinished run."""
        if self.begun_by() != "replace":
            return WAYS_OUT
        # resume="replace" would continue this very run.
        return "choose another run_dir, or delete this one, which holds a run that resume='replace' began"

    def reached(self, epochs: int) -> bool:
        """Tell whether a run of `epochs` epochs can continue from the last checkpoint."""
        return self._done() <= Position(epochs)

    def result(self, epochs: int) -> list[dict[str, Any]] | None:
        """Return the history of the run if it is finished after `epochs` epochs; else None.

        Raises CheckpointError if the run has trained more: the number of epochs may grow, not shrink.
        """
        if storage.exists(self.finished) and read_json(self.finished)["epochs"] == epochs:
            return list(read_json(self.history))
        done = self._done()
        if done > Position(epochs):
            raise CheckpointError(
                f"epochs={epochs} but run_dir={self.path} has trained {_in_words(done)} already; ask for at least "
                f"{done.epoch + (done.step > 0)}, {WAYS_OUT}"
            )
        return None

    def finish(self, recorded: Recorded, epochs: int) -> None:
        """Write what was recorded, and mark the run as finished."""
        storage.write_atomic(self.ranks, json.dumps(recorded.ranks).encode())
        storage.write_atomic(self.history, json.dumps(recorded.history, indent=1).encode())
        storage.write_atomic(self.finished, json.dumps({"epochs": epochs}).encode())

    def latest_checkpoint(self) -> str | None:
        """Return the path of the newest committed checkpoint, or None."""
        return next(reversed(committed_checkpoints(self.checkpoints)), None)

    def _done(self) -> Position:
        latest = self.latest_checkpoint()
        return Position() if latest is None else read_checkpoint(latest).position


def _in_words(position: Position) -> str:
    """Say in words how much of a run lies before a position."""
    epochs = f"{position.epoch} epoch{'s' if position.epoch != 1 else ''}"
    steps = f"{position.step} step{'s' if position.step != 1 else ''}"
    return epochs if not position.step else f"{epochs} and {steps}" if position.epoch else steps
