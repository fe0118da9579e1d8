"""Decide what follows from parts of a model that are not exact over ranks: an error, a warning, or nothing.

Pure but for the log; used in rank processes. Each part that depends on how rows are divided among ranks is found in the
same way on any number of ranks; the decision depends on the number of ranks and on `TrainConfig.exactness`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sparkdl.errors import ModelError
from sparkdl.train.exact.findings import Inexact

__all__ = ["decide"]

log = logging.getLogger(__name__)


def decide(
    found: Sequence[Inexact], *, exactness: str, world_size: int, rank: int = 0, doing: str = "training"
) -> None:
    """Raise, warn or do nothing about parts that are not exact.

    Args:
        exactness: "strict" or "per_worker".
        world_size: one rank computes everything as plain Keras does, so there is nothing to refuse.
        rank: rank 0 warns for all.
        doing: "training" or "evaluating".

    Raises ModelError in strict mode on several ranks.
    """
    if not found:
        return
    listed = " | ".join(map(str, found))
    if world_size > 1 and exactness == "strict":
        raise ModelError(
            f"{listed}. The result would depend on the number of workers: use one worker, or exactness='per_worker', "
            "which computes it per worker and averages by rows"
        )
    if rank > 0:
        return
    if world_size == 1:
        log.warning(
            "%s as plain Keras does with one worker; on several workers exactness='strict' refuses, and 'per_worker' "
            "approximates: %s",
            doing,
            listed,
        )
    else:
        log.warning("exactness='per_worker': computed per worker and averaged by rows: %s", listed)
