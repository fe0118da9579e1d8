"""Where everything of a training run lies, and whether it can go on. Each path of a run is built here and nowhere else.

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
from sparkdl.errors import CheckpointError, shown
from sparkdl.storage.format_version import check_format_version
from sparkdl.train.run.checkpoint import Position, committed_checkpoints, read_checkpoint
from sparkdl.train.run.differences import first_difference
from sparkdl.train.run.record import Recorded

__all__ = ["WAYS_OUT", "RunDir"]

FORMAT_VERSION = 1
# Where a run cannot be that of the folder.
WAYS_OUT = "choose another run_dir, or resume='replace', which keeps the old run aside until the new one has finished"
_BEGUN_BY = "begun_by"
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
    def code(self) -> str:
        """What made the run, as JSON: build_model and callbacks by their fingerprints, and what they gave."""
        return storage.join(self.path, "code.json")

    @property
    def best(self) -> str:
        """Which epoch's model `best_model` is, by which figure, as JSON; not there while it is written."""
        return storage.join(self.path, "best.json")

    def asides(self) -> Iterator[str]:
        """Beside the folder: where runs that are replaced lie until a new one has finished, the first one first."""
        yield f"{self.path}.replaced"
        yield from (f"{self.path}.replaced-{number}" for number in itertools.count(2))

    @property
    def finished(self) -> str:
        """There once the run is finished: after how many epochs, as JSON."""
        return storage.join(self.path, "finished.json")

    def begin(self, record: Mapping[str, Any], *, resume: str = "auto") -> None:
        """Make the folder for a new run. Raises CheckpointError if it cannot be written.

        Args:
            resume: `TrainConfig.resume` of the call that begins it.
        """
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
        """Whether the folder holds this very run; False where it holds nothing.

        Args:
            record: what the run trains on and how.
            resume: `TrainConfig.resume`.
            defaults: by option, what stands for one that the run's version of sparkdl did not know.
            upgrade: makes of the options that an older version recorded those that this one records.

        Raises CheckpointError if it holds anything else, or what `resume` does not allow.
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
        found = self._read(self.record)
        check_format_version(found, path=self.record, newest=FORMAT_VERSION, error=CheckpointError)
        found = {name: part for name, part in found.items() if name != _BEGUN_BY}
        found |= {"config": upgrade({**defaults, **found["config"]})}
        # Through JSON, as the other one went.
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
        """`TrainConfig.resume` of the call that began the run."""
        return str(self._read(self.record).get(_BEGUN_BY, "auto"))

    def ways_out(self) -> str:
        """What to do where the folder's run, which has not finished, is another one than was asked for."""
        if self.begun_by() != "replace":
            return WAYS_OUT
        # resume="replace" would go on with this very run.
        return "choose another run_dir, or delete this one, which holds a run that resume='replace' began"

    def reached(self, epochs: int) -> bool:
        """Whether a run of so many epochs can go on from the last checkpoint."""
        return self._done() <= Position(epochs)

    def result(self, epochs: int) -> list[dict[str, Any]] | None:
        """The history of the run if it is finished, with so many epochs asked for.

        Raises CheckpointError if it has gone beyond them: epochs may grow, and are not taken back.
        """
        if storage.exists(self.finished) and self._read(self.finished)["epochs"] == epochs:
            return list(self._read(self.history))
        done = self._done()
        if done > Position(epochs):
            raise CheckpointError(
                f"epochs={epochs} but run_dir={self.path} has trained {_in_words(done)} already; ask for at least "
                f"{done.epoch + (done.step > 0)}, {WAYS_OUT}"
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

    def _done(self) -> Position:
        latest = self.latest_checkpoint()
        return Position() if latest is None else read_checkpoint(latest).position

    def _read(self, path: str) -> Any:
        try:
            return json.loads(storage.read_bytes(path))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error


def _in_words(position: Position) -> str:
    """What lies before a position, in words."""
    epochs = f"{position.epoch} epoch{'s' if position.epoch != 1 else ''}"
    steps = f"{position.step} step{'s' if position.step != 1 else ''}"
    return epochs if not position.step else f"{epochs} and {steps}" if position.epoch else steps
