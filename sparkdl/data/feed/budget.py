"""Decide how a rank's feed uses its memory: for blocks, slots for row groups, or the whole split.

Pure; called in rank processes when a feed is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparkdl import storage
from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.reader_config import ReaderConfig
from sparkdl.errors import ConfigError

__all__ = ["FeedMemory", "feed_memory"]

# A block costs one call from tf.data into Python (about 0.3 ms); this many bytes make that negligible.
BLOCK_BYTES = 8 << 20
# The largest number of steps of a block.
MOST_STEPS = 1 << 12
# Blocks in memory at once: one is assembled, one waits for tf.data, one is prefetched, one is cut into steps.
BLOCKS = 4
# The memory of a feed for which none is configured, unless the order of the epoch needs more.
DEFAULT_MEMORY = 512 << 20
# A remote store answers after some 30 ms: 16 requests at once keep a link busy with any number of cores.
REMOTE_THREADS = 16


@dataclass(frozen=True, slots=True)
class FeedMemory:
    """Describe how a feed uses its memory.

    Attributes:
        slots: the number of row groups held at once; None keeps the whole split, decoded.
        block_steps: the number of steps of a block.
        threads: the number of threads that read row groups.
        cache: whether to copy row groups to the local disk.
        bytes: the most memory that the feed takes.
    """

    slots: int | None
    block_steps: int
    threads: int
    cache: bool
    bytes: int


def feed_memory(
    dataset: Dataset,
    split: SplitParts,
    reader: ReaderConfig,
    *,
    cores: int,
    world_size: int,
    global_batch_size: int,
) -> FeedMemory:
    """Divide the memory that `reader` allows for the feed of one rank of `world_size`.

    Raises ConfigError if the memory is too little for the order of an epoch, or for a split that must be kept whole.
    """
    row_bytes = dataset.layout.row_bytes
    lanes = -(-dataset.lanes // world_size)
    step_rows = min(-(-lanes * global_batch_size // dataset.lanes), split.rows)
    # A sixteenth of the memory for each of the blocks leaves most of it to row groups.
    block_bytes = min(BLOCK_BYTES, (reader.memory or DEFAULT_MEMORY) // 16)
    block_steps = int(np.clip(block_bytes // max(1, step_rows * row_bytes), 1, MOST_STEPS))
    blocks = BLOCKS * min(block_steps * step_rows, split.rows) * row_bytes
    is_remote = not storage.is_local(dataset.path)
    threads = reader.threads or (max(cores, REMOTE_THREADS) if is_remote else cores)

    slot_rows = max(split.row_group_rows)
    slot = slot_rows * (row_bytes + np.dtype(np.int64).itemsize)
    groups = len(split.row_group_rows)
    # Every lane may be in one row group at a step's begin and in the next at its end.
    least = min(groups, 2 * lanes + -(-step_rows // slot_rows)) + threads
    whole = split.rows * (row_bytes + np.dtype(np.int64).itemsize) + blocks + threads * slot
    memory = reader.memory or max(DEFAULT_MEMORY, blocks + least * slot)
    if reader.in_memory is True and whole > memory:
        raise ConfigError(
            f"in_memory=True, but split {split.name!r} needs {_mib(whole)} in each rank and reader.memory is "
            f"{_mib(memory)}; raise it, or use in_memory='auto'"
        )
    if reader.in_memory is not False and whole <= memory:
        return FeedMemory(None, block_steps, threads, False, whole)
    slots = min((memory - blocks) // slot - threads, groups)
    if slots + threads < least:
        raise ConfigError(
            f"reader.memory={_mib(memory)} is too little for split {split.name!r}: blocks of {_mib(blocks // BLOCKS)} "
            f"and {least} row groups of {slot} bytes need {_mib(blocks + least * slot)}; raise it, or use more workers "
            "or a smaller batch"
        )
    return FeedMemory(
        slots,
        block_steps,
        threads,
        is_remote if reader.cache is None else reader.cache,
        blocks + (slots + threads) * slot,
    )


def _mib(size: int) -> str:
    return f"{-(-size // (1 << 20))} MiB"
