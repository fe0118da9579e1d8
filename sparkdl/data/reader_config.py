"""Configure how a rank reads the dataset.

Made on the driver; the values travel to ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparkdl.checks import named_options, require, require_whole
from sparkdl.errors import shown

__all__ = ["ReaderConfig"]


@named_options
@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """Declare how a rank reads the dataset, which never changes what the model sees.

    Raises ConfigError for a value out of range.
    """

    threads: int | None = None
    """Threads that read row groups. None: the rank's cores, and at least 16 where the dataset is on remote storage."""

    memory: int | None = None
    """Bytes that the feed of one split may take in each rank; validation takes as much again while it runs. None: 512
    MiB, or the memory that the order of an epoch needs if that is more."""

    in_memory: bool | str = "auto"
    """Keep the whole split in every rank, read and decoded once: True (an error if `memory` is too little), False, or
    "auto" (if the split fits). Every epoch deals the row groups anew, so each rank comes to need all of them."""

    cache: bool | None = None
    """Keep copies of row groups on the rank's local disk, for the next epochs. None: if the dataset is
    on remote storage. The copies are gone when the rank ends, even by a crash."""

    def __post_init__(self) -> None:
        if self.threads is not None:
            require_whole("reader.threads", self.threads)
        if self.memory is not None:
            require_whole("reader.memory", self.memory)
        good = isinstance(self.in_memory, bool) or self.in_memory == "auto"
        require(good, f"reader.in_memory={shown(self.in_memory)} must be True, False or 'auto'")
        good = self.cache is None or isinstance(self.cache, bool)
        require(good, f"reader.cache={shown(self.cache)} must be True, False or None")
