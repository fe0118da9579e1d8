"""Configure the logging of a rank process.

Runs in the rank process alone. Everywhere else the library only logs to its loggers; the program configures them.
"""

from __future__ import annotations

import logging

from sparkdl.launch.world import World

__all__ = ["log_as_rank"]


# Libraries that log at INFO on every read or request.
CHATTY = ("absl", "botocore", "fsspec", "petastorm", "s3fs", "urllib3")


def log_as_rank(world: World) -> None:
    """Write this process's log to stderr; each line names the rank. Ranks above 0 log from WARNING up.

    The form is `INFO [rank 0/8 host-a] sparkdl.train.rank.trainer: epoch 3 ...`.
    """
    name = world.describe().replace("%", "%%")
    level = logging.INFO if world.rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format=f"%(levelname)s [{name}] %(name)s: %(message)s", force=True)
    for library in CHATTY:
        logging.getLogger(library).setLevel(logging.WARNING)
