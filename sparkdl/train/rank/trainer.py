"""Train one rank's share of a run, from building the model to writing it. Runs in a rank process."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sparkdl.data.dataset import SplitParts
from sparkdl.data.feed.tensors import FirstRows, step_dataset
from sparkdl.errors import ConfigError
from sparkdl.launch.checks.versions import installed
from sparkdl.launch.world import World
from sparkdl.model.outputs import unknown_classes, unknown_values
from sparkdl.model.save import check_savable, write_model
from sparkdl.model.signature import Signature
from sparkdl.train.checks.monitor import check_monitor
from sparkdl.train.config import TrainConfig
from sparkdl.train.exact.collective import broadcast, join_world
from sparkdl.train.exact.findings import Inexact
from sparkdl.train.exact.optimizers import optimizers_of
from sparkdl.train.exactness.epoch_check import MOST_ROWS
from sparkdl.train.exactness.judge import epoch_judge
from sparkdl.train.rank.augmentation import check_augment
from sparkdl.train.rank.built_model import built_model, model_made_by
from sparkdl.train.rank.callbacks.chain import rank_callbacks
from sparkdl.train.rank.callbacks.checkpointer import Checkpointer
from sparkdl.train.rank.callbacks.csv_log import continue_csv_logs
from sparkdl.train.rank.callbacks.recorder import EpochRecorder
from sparkdl.train.rank.callbacks.tensorboard import TensorBoardFiles
from sparkdl.train.rank.facts import callback_facts, metric_directions
from sparkdl.train.rank.loop import train_epochs
from sparkdl.train.rank.make_steps import run_steps_of, step_taker
from sparkdl.train.rank.rank_feed import rank_feed
from sparkdl.train.rank.resume import found_checkpoint, record_origin, restore, resume_epoch, start_of
from sparkdl.train.rank.run_steps import RunSteps
from sparkdl.train.rank.schedule import Schedule
from sparkdl.train.rank.warm_start import finish_states, take_initial_weights
from sparkdl.train.run.checkpoint import Checkpoint
from sparkdl.train.run.made_by import MadeBy
from sparkdl.train.run.record import Recorded, averaged_weights
from sparkdl.train.spec import TrainSpec

__all__ = ["train"]

log = logging.getLogger(__name__)


def train(task: TrainSpec, here: World) -> Recorded:
    """Train on this rank's share of the rows. Returns the same record on every rank; rank 0 has written the model."""
    join_world(here)
    config, dataset = task.config, task.dataset
    model, example = built_model(task)
    check_savable(model)
    check_augment(task)
    made_by = model_made_by(task, model)  # before any trial changes the model
    feed = rank_feed(
        dataset,
        dataset.split("train"),
        here,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
        reader=config.reader,
    )
    steps_of_pass = feed.plan(0).steps
    schedule = Schedule(
        epochs=config.epochs,
        steps=config.steps_per_epoch or steps_of_pass,
        steps_of_pass=steps_of_pass,
        validation_every=config.validation_every,
    )
    resumed = found_checkpoint(task.run, task.checkpoint, made_by.model)
    take_initial_weights(task, model, rank=here.rank, goes_on=resumed is not None)
    run_steps = run_steps_of(task, here, model, example, made_by, resumed, schedule)
    _set_first_weights(task, model, resumed, here)
    with run_steps:
        callbacks, recorder, first_rows = _callbacks(task, here, model, made_by, resumed, run_steps, schedule)
        start = start_of(resumed, config.epochs)
        passes, start_step = schedule.passes_from(start)
        data = step_dataset(
            feed,
            dataset.layout,
            passes,
            start_step=start_step,
            target=config.target,
            first_rows=first_rows,
            augment=config.augment,
        )
        train_epochs(
            model,
            iter(data),
            callbacks,
            start=start,
            schedule=schedule,
            take_step=step_taker(task, model, run_steps, schedule),
            evaluate=_evaluation(task, model, here),
            resume_epoch=partial(resume_epoch, model, run_steps.numbers, recorder, resumed, rank=here.rank),
        )
    if here.rank == 0:
        _write_trained(task, model, recorder.inexact)
    return recorder.recorded


def _set_first_weights(task: TrainSpec, model: Any, resumed: Checkpoint | None, here: World) -> None:
    """Give every rank the weights that training starts from: a checkpoint's, or those that rank 0 has now."""
    if here.rank == 0 and resumed is not None:
        restore(resumed, model)
    broadcast([v.value for one in (model, *optimizers_of(model)) for v in one.variables])
    finish_states(model)


def _callbacks(
    task: TrainSpec,
    here: World,
    model: Any,
    made_by: MadeBy,
    resumed: Checkpoint | None,
    run_steps: RunSteps,
    schedule: Schedule,
) -> tuple[list[Any], EpochRecorder, FirstRows | None]:
    """Make the callbacks: the user's, and those that record epochs, save checkpoints and keep checking exactness.

    Returns the callbacks in order; the recorder among them; and what keeps the rows of each epoch's first step for the
    check of exactness, None on a single rank.
    """
    config, numbers = task.config, run_steps.numbers
    own = config.callbacks() if config.callbacks else []
    made_by = replace(made_by, callbacks=callback_facts(own))
    direction = _direction(task, model, run_steps)
    if here.rank == 0:
        record_origin(task.run, made_by, resumed)
        continue_csv_logs(own, resumed)
    recorded = Recorded() if resumed is None else Recorded.from_json(resumed.facts)
    recorded = replace(recorded, environment={**installed(), "Python": platform.python_version()})
    recorder = EpochRecorder(numbers, here, recorded, epochs=schedule.epochs, steps=schedule.steps)
    callbacks = rank_callbacks(own, run_steps, recorder, rank=here.rank, schedule=schedule)
    if here.rank == 0:
        callbacks.append(TensorBoardFiles(task.run.tensorboard, recorded))
    first_rows = FirstRows(most=MOST_ROWS, steps=schedule.steps) if here.size > 1 else None
    if first_rows is not None:
        findings = run_steps.options.findings
        recorder.mark(findings.inexact)
        if run_steps.options.local:
            trained_alone = Inexact(
                averaged_weights(config.sync_every),
                "are averaged over workers that train alone between: the result depends on the number of workers",
            )
            recorder.mark([trained_alone])
            if here.rank == 0:
                log.warning("%s", trained_alone)
        judging = epoch_judge(model, task, here, findings, first_rows, found=recorder.mark)
        callbacks.append(judging)
        run_steps.followed += [
            lambda: recorder.mark(run_steps.options.findings.inexact),
            lambda: judging.judge_anew(model, run_steps.options.findings),
        ]
    run_steps.followed.append(lambda: _check_direction(direction, _direction(task, model, run_steps), config))
    checkpointer = Checkpointer(
        task,
        direction=direction,
        facts={"model": made_by.model},
        run_steps=run_steps,
        world=here,
        others=own,
        recorder=recorder,
        schedule=schedule,
        resumed=resumed,
        write_best=lambda: _write_model(task, model, task.run.best_model, recorder.inexact),
    )
    return [*callbacks, checkpointer], recorder, first_rows


def _direction(task: TrainSpec, model: Any, run_steps: RunSteps) -> str | None:
    """Return "min" or "max", whichever value of the monitored metric is its best, as the model is compiled now."""
    rates, validated = [*run_steps.rates.of_last_step()], _validation(task) is not None
    return check_monitor(task.config, model, rates, validated=validated, directions=metric_directions(model))


def _check_direction(before: str | None, now: str | None, config: TrainConfig) -> None:
    """Raise ConfigError if a callback compiled a metric of the monitored name whose best value is the other extreme."""
    if before != now:
        raise ConfigError(
            f"checkpoint.monitor={config.checkpoint.monitor!r} has its best value at the {before} in the model that "
            f"build_model compiled, and at the {now} in the one that a callback compiled; use checkpoint.mode, or "
            "another name"
        )


def _validation(task: TrainSpec) -> SplitParts | None:
    name = task.config.validation
    return None if name is None or name not in task.dataset.splits else task.dataset.split(name)


def _evaluation(task: TrainSpec, model: Any, here: World) -> Callable[[Any], dict[str, Any]] | None:
    """Return a function that evaluates the validation split; None if nothing is to be evaluated."""
    if (split := _validation(task)) is None:
        return None
    config = task.config
    feed = rank_feed(
        task.dataset, split, here, global_batch_size=config.global_batch_size, seed=None, reader=config.reader
    )
    data = step_dataset(feed, task.dataset.layout, [0], target=config.target)
    steps = feed.plan(0).steps
    return lambda called: dict(model.evaluate(data, steps=steps, callbacks=called, verbose=0, return_dict=True))


def _write_trained(task: TrainSpec, model: Any, inexact: Sequence[str]) -> None:
    """Write the trained model, and warn of outputs whose values or classes scoring cannot know."""
    signature = _write_model(task, model, task.run.model, inexact)
    labels = task.dataset.label_encoders if task.config.target == "label" else ()
    for unknown in (unknown_values(signature.outputs), unknown_classes(signature.outputs, labels)):
        if unknown:
            log.warning("model %r: %s", model.name, unknown)


def _write_model(task: TrainSpec, model: Any, model_dir: str, inexact: Sequence[str]) -> Signature:
    dataset, target = task.dataset, task.config.target
    return write_model(
        model,
        model_dir,
        encoders=dataset.encoders,
        label_encoders=dataset.label_encoders if target == "label" else (),
        raw_types=dataset.raw_types_of_features,
        target=target,
        inexact=inexact,
    )
