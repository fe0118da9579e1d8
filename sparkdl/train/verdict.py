"""Judge a model once for all ranks, and go on judging it while it trains.

Runs in rank processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.sample_rows import sample_rows
from sparkdl.data.tensors import FirstRows, batch_of
from sparkdl.launch.world import World
from sparkdl.train.additive import Findings, find_inexact
from sparkdl.train.collective import broadcast_text
from sparkdl.train.epoch_check import EpochCheck
from sparkdl.train.exactness import Inexact, decide
from sparkdl.train.spec import TrainTask

__all__ = ["epoch_judge", "judge"]


def judge(
    model: Any,
    dataset: Dataset,
    split: SplitParts,
    here: World,
    *,
    exactness: str,
    target: str,
    class_weights: bool = False,
    training: bool = True,
) -> Findings:
    """Find on rank 0, on rows of the whole split, what is not exact in a built model; warn, or raise on every rank.

    Raises ModelError for what is not exact, in strict mode on several ranks.
    """
    text = ""
    if here.rank == 0:
        batch = batch_of(sample_rows(dataset, split), dataset.layout, target=target)
        text = find_inexact(model, batch, class_weights=class_weights, training=training).to_json()
    findings = Findings.from_json(broadcast_text(text, name="findings"))
    doing = "training" if training else "evaluating"
    decide(findings.inexact, exactness=exactness, world_size=here.size, rank=here.rank, doing=doing)
    return findings


def epoch_judge(
    model: Any,
    task: TrainTask,
    here: World,
    findings: Findings,
    first_rows: FirstRows,
    *,
    found: Callable[[list[Inexact]], None],
) -> keras.callbacks.Callback:
    """Make the callback that tries the model on this rank's rows of each epoch's first step, after that step.

    Args:
        found: gets what is not exact and was not known, where training goes on.

    The callback raises ModelError in strict mode.
    """
    check, config, layout = EpochCheck(model, findings), task.config, task.dataset.layout

    class _AfterFirstStep(keras.callbacks.Callback):  # type: ignore[misc]
        _epoch: int | None = None

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self._epoch is None:
                return
            inputs, targets, *_ = batch_of(first_rows.take(self._epoch), layout, target=config.target)
            self._epoch = None
            inexact = check(inputs, targets)
            decide(inexact, exactness=config.exactness, world_size=here.size, rank=here.rank)
            found(inexact)

    return _AfterFirstStep()
