"""Where everything of a training run lies. Each path of a run is built here and nowhere else.

Used on the driver and in ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparkdl import storage
from sparkdl.errors import CheckpointError, shown

__all__ = ["RunDir"]


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder or URL of one run."""

    path: str

    @property
    def model(self) -> str:
        """The model directory."""
        return storage.join(self.path, "model")

    @property
    def logs(self) -> str:
        """The ranks' output, a folder for each launch."""
        return storage.join(self.path, "logs")

    @property
    def history(self) -> str:
        """The history as JSON: a list of dicts, one per epoch."""
        return storage.join(self.path, "history.json")

    def claim(self) -> None:
        """Make the folder for a new run. Raises CheckpointError if it already holds something."""
        names = storage.listing(self.path)
        if names:
            raise CheckpointError(
                f"run_dir={self.path} already holds {shown(names[0])}; choose a new folder for each run"
            )
        try:
            storage.make_folder(self.path)
        except OSError as error:
            raise CheckpointError(f"run_dir={self.path} cannot be written: {error}") from error

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Replace the history file."""
        storage.write_atomic(self.history, json.dumps(list(history), indent=1).encode())
