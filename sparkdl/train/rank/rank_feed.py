"""Make the feed of a rank: its share of a split's rows. Runs in a rank process."""

from __future__ import annotations

import os

from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.feed.feed import Feed
from sparkdl.data.reader_config import ReaderConfig
from sparkdl.launch.world import World

__all__ = ["rank_feed"]


def rank_feed(
    dataset: Dataset,
    split: SplitParts,
    here: World,
    *,
    global_batch_size: int,
    seed: int | None,
    reader: ReaderConfig | None = None,
) -> Feed:
    """Make the feed of this rank. Without a seed the rows keep the order in which they are stored."""
    return Feed(
        dataset,
        split,
        rank=here.rank,
        world_size=here.size,
        global_batch_size=global_batch_size,
        seed=seed,
        reader=reader,
        cores=int(os.environ.get("OMP_NUM_THREADS", "1")),  # set by the launcher
    )
