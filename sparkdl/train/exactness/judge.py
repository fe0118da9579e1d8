"""Judge a model once for all ranks, and go on judging it while it trains. Runs in rank processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.feed.sample_rows import sample_rows
from sparkdl.data.feed.tensors import FirstRows, batch_of
from sparkdl.errors import ModelError
from sparkdl.launch.world import World
from sparkdl.train.exact.collective import broadcast_text
from sparkdl.train.exact.findings import Findings, Inexact
from sparkdl.train.exact.state.moving_state import layer_states
from sparkdl.train.exactness.epoch_check import EpochCheck
from sparkdl.train.exactness.find import ROWS_OF_MODEL, find_inexact
from sparkdl.train.spec import TrainSpec

__all__ = ["decide", "epoch_judge", "judge"]

log = logging.getLogger(__name__)

# The rows that a model is called on, and the fewer ones where memory does not hold these.
FEWER_ROWS = (ROWS_OF_MODEL, 8, 4)


def judge(
    model: Any,
    dataset: Dataset,
    split: SplitParts,
    here: World,
    *,
    exactness: str,
    target: str,
    global_batch_size: int,
    class_weights: bool = False,
    training: bool = True,
) -> Findings:
    """Find on rank 0, on rows of the whole split, what is not exact in a built model; warn, or raise on every rank.

    A model that a device's memory does not hold with these rows is tried on fewer.

    Raises ModelError for what is not exact, in strict mode on several ranks.
    """
    text = ""
    if here.rank == 0:
        batch = batch_of(sample_rows(dataset, split), dataset.layout, target=target)
        text = _found(model, batch, global_batch_size, class_weights=class_weights, training=training).to_json()
    findings = Findings.from_json(broadcast_text(text, name="findings"))
    doing = "training" if training else "evaluating"
    decide(findings.inexact, exactness=exactness, world_size=here.size, rank=here.rank, doing=doing)
    return findings


def _found(model: Any, batch: tuple[Any, ...], global_batch_size: int, **how: bool) -> Findings:
    # The model's own steps get no more rows than in training, where memory is chosen for those.
    rows_of_step = max(ROWS_OF_MODEL, global_batch_size)
    for rows in FEWER_ROWS:
        try:
            return find_inexact(model, batch, rows_at_once=rows, rows_of_step=rows_of_step, **how)
        except tf.errors.ResourceExhaustedError:
            log.info("%d rows of model %r do not fit into memory; it is tried on fewer", rows, model.name)
        rows_of_step = rows
    log.warning(
        "model %r cannot be tried on %d rows, for want of memory; that its losses, metrics and layers look at one row "
        "at a time is taken on trust",
        model.name,
        FEWER_ROWS[-1],
    )
    return Findings(states=tuple(state.reduction or "mean" for state in layer_states(model)))


def decide(
    found: Sequence[Inexact], *, exactness: str, world_size: int, rank: int = 0, doing: str = "training"
) -> None:
    """Raise ModelError, warn or do nothing about parts that are not exact, which are the same on any number of ranks.

    `exactness`: as in TrainConfig; `doing`: "training" or "evaluating". One rank computes all as plain Keras does, so
    there is nothing to refuse; rank 0 warns for all.
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


def epoch_judge(
    model: Any,
    spec: TrainSpec,
    here: World,
    findings: Findings,
    first_rows: FirstRows,
    *,
    found: Callable[[list[Inexact]], None],
) -> EpochJudge:
    """Make the callback that tries the model on this rank's rows of each epoch's first step, after that step.

    It raises ModelError in strict mode; where training goes on, `found` gets what is not exact and was not known.
    """
    config, layout = spec.config, spec.dataset.layout

    class _AfterFirstStep(EpochJudge):
        _epoch: int | None = None

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self._epoch is None:
                return
            inputs, targets, *_ = batch_of(first_rows.take(self._epoch), layout, target=config.target)
            self._epoch = None
            inexact = self._check(inputs, targets)
            decide(inexact, exactness=config.exactness, world_size=here.size, rank=here.rank)
            found(inexact)

    judging = _AfterFirstStep()
    judging.judge_anew(model, findings)
    return judging


class EpochJudge(keras.callbacks.Callback):  # type: ignore[misc]
    """Try a model in each epoch."""

    _check: EpochCheck

    def judge_anew(self, model: Any, findings: Findings) -> None:
        """Judge the model as it is compiled now, of which `findings` are known."""
        self._check = EpochCheck(model, findings)
