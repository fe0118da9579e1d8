"""Plan the output of scoring: what `score_parquet` and `write_scored` carry out, and what a dry run shows.

Runs on the driver.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from sparkdl import storage
from sparkdl.score.commit import finished, is_half, put_back, replaced_folder

__all__ = ["ScorePlan"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePlan:
    """Describe the output of scoring.

    Attributes:
        out: the folder to write, absolute.
        made_of: the fingerprint of the output's content; None if it has none: then an existing output never counts as
            the same.
        if_exists: as in `score_parquet`.
    """

    out: str
    made_of: str | None
    if_exists: str = "reuse"

    @property
    def state(self) -> str:
        """The outcome: "finished" if the output would be reused, "replaced" if predictions would be, else "new".

        Nothing is changed: an output that a killed run moved aside is read where it is. Raises ConfigError for an
        output that may be neither reused nor replaced.
        """
        there = self.out
        if storage.is_local(self.out) and not storage.listing(self.out):
            # The folder that `put_back` would give the output's name again.
            aside = replaced_folder(os.path.realpath(self.out))
            there = aside if os.path.isdir(aside) else self.out
        if finished(self.out, self.made_of, self.if_exists, there=there) is not None:
            return "finished"
        names = storage.listing(there)
        # Scoring deletes the files of a killed commit to an object store, whatever they were to replace.
        return "replaced" if names and not is_half(names) else "new"

    def found(self) -> dict[str, Any] | None:
        """Return what was saved with the finished output if it is to be reused; None if rows are to be scored.

        An output that a killed run moved aside is put back. Raises ConfigError as `state` does.
        """
        put_back(self.out)
        saved = finished(self.out, self.made_of, self.if_exists)
        if saved is not None:
            log.warning("found %s, scored from the same input: nothing was scored now", self.out)
        return saved
