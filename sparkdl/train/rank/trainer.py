"""One rank of a training or evaluation run.

Runs in a rank process, started by `fit` and `evaluate` through the launcher; imports TensorFlow when it is called.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sparkdl.data.dataset import Dataset
from sparkdl.launch.checks.versions import installed
from sparkdl.launch.world import World, world
from sparkdl.model.signature import Signature
from sparkdl.train.class_weight import class_weights
from sparkdl.train.config import TrainConfig
from sparkdl.train.rank.built_model import built_model, example_of
from sparkdl.train.rank.libraries import load_libraries
from sparkdl.train.rank.scheduling import compute_undisturbed
from sparkdl.train.run.record import Recorded
from sparkdl.train.same.made_by import MadeBy
from sparkdl.train.spec import EvaluateTask, TrainTask

__all__ = ["evaluate_rank", "start_rank", "train_rank"]

log = logging.getLogger(__name__)


def train_rank(task: TrainTask) -> Recorded:
    """Train on this rank's share. What is returned is the same on every rank; rank 0 has written the model."""
    here = start_rank()
    from sparkdl.data.feed.tensors import FirstRows, step_dataset
    from sparkdl.model.outputs import unknown_classes, unknown_values
    from sparkdl.model.save import check_savable
    from sparkdl.train.checks.monitor import check_monitor
    from sparkdl.train.exact.collective import broadcast, join_world
    from sparkdl.train.exact.instrument import exact_steps
    from sparkdl.train.exact.optimizers import optimizers_of
    from sparkdl.train.exactness.epoch_check import MOST_ROWS
    from sparkdl.train.exactness.judge import epoch_judge, judge
    from sparkdl.train.rank.callbacks import rank_callbacks
    from sparkdl.train.rank.checkpointer import Checkpointer
    from sparkdl.train.rank.csv_log import continue_csv_logs
    from sparkdl.train.rank.learning_rate import LearningRates
    from sparkdl.train.rank.loop import train_epochs
    from sparkdl.train.rank.recorder import EpochRecorder
    from sparkdl.train.rank.resume import record_origin, resume, resume_epoch, start_of
    from sparkdl.train.rank.tensorboard import TensorBoardFiles
    from sparkdl.train.rank.warm_start import warm_start
    from sparkdl.train.same.describe import callback_facts, metric_directions, model_facts, weight_facts

    join_world(here)
    config, dataset = task.config, task.dataset
    model, example = built_model(task)
    check_savable(model)
    facts, weights = {"model": model_facts(model)}, weight_facts(model)  # before the model is tried
    feed = _feed(task, dataset.split("train"), here, seed=config.seed)
    options = _options(config, dataset)
    findings = judge(
        model,
        dataset,
        dataset.split("train"),
        here,
        exactness=config.exactness,
        target=config.target,
        global_batch_size=config.global_batch_size,
        class_weights=options.class_weights is not None,
    )
    options = replace(options, findings=findings)
    resumed = resume(task.run, task.checkpoint, model, facts, rank=here.rank)
    if resumed is None and config.initial_model is not None and here.rank == 0:
        warm_start(model, config.initial_model)
    optimizers = optimizers_of(model)
    broadcast([v.value for v in (*model.variables, *(v for o in optimizers for v in o.variables))])

    validation = _validation(dataset, config)
    steps = feed.plan(0).steps
    rates = LearningRates(
        model,
        lr_scaling=config.lr_scaling,
        warmup_epochs=config.warmup_epochs,
        global_batch_size=config.global_batch_size,
        steps=steps,
    )
    with exact_steps(model, here, example, options) as numbers, rates.multiplied():
        own = config.callbacks() if config.callbacks else []
        made_by = MadeBy(
            code=task.code,
            model=facts["model"],
            callbacks=callback_facts(own),
            directions=metric_directions(model),
            weights=weights,
        )
        direction = check_monitor(
            config, model, [*rates.of_last_step()], validated=validation is not None, directions=made_by.directions
        )
        if here.rank == 0:
            record_origin(task.run, made_by, resumed)
            continue_csv_logs(own, resumed)
        recorded = Recorded() if resumed is None else Recorded.from_json(resumed.facts)
        recorded = replace(recorded, environment={**installed(), "Python": platform.python_version()})
        recorder = EpochRecorder(numbers, here, recorded, epochs=config.epochs, steps=steps)
        first_rows = FirstRows(most=MOST_ROWS) if here.size > 1 else None
        if first_rows is not None:
            recorder.mark(findings.inexact)
        callbacks = rank_callbacks(own, numbers, rates, recorder, rank=here.rank, steps=steps)
        if here.rank == 0:
            callbacks.append(TensorBoardFiles(task.run.tensorboard, recorded))
        checkpointer = Checkpointer(
            task.run,
            config.checkpoint,
            direction=direction,
            facts=facts,
            numbers=numbers,
            world=here,
            others=own,
            recorder=recorder,
            steps=steps,
            epochs=config.epochs,
            resumed=resumed,
            write_best=lambda: _write_model(model, task, task.run.best_model, recorder.inexact),
            averaged=findings.averaged_metrics if here.size > 1 else (),
        )
        if first_rows is not None:
            callbacks.append(epoch_judge(model, task, here, findings, first_rows, found=recorder.mark))
        start = start_of(resumed, config.epochs)
        epochs = range(start.epoch, config.epochs)
        data = step_dataset(
            feed, dataset.layout, epochs, start_step=start.step, target=config.target, first_rows=first_rows
        )
        train_epochs(
            model,
            iter(data),
            [*callbacks, checkpointer],
            start=start,
            epochs=config.epochs,
            steps=steps,
            evaluate=_evaluation(task, model, validation, here),
            resume_epoch=partial(resume_epoch, model, numbers, recorder, resumed, rank=here.rank),
        )
    if here.rank == 0:
        signature = _write_model(model, task, task.run.model, recorder.inexact)
        labels = dataset.label_encoders if config.target == "label" else ()
        for unknown in (unknown_values(signature.outputs), unknown_classes(signature.outputs, labels)):
            if unknown:
                log.warning("model %r: %s", model.name, unknown)
    return recorded


def _evaluation(task: TrainTask, model: Any, split: Any, here: World) -> Callable[[Any], dict[str, Any]] | None:
    """Evaluates the held-out split, or None if there is none."""
    from sparkdl.data.feed.tensors import step_dataset

    if split is None:
        return None
    feed = _feed(task, split, here, seed=None)
    data = step_dataset(feed, task.dataset.layout, [0], target=task.config.target)
    steps = feed.plan(0).steps

    def evaluate(callbacks: Any) -> dict[str, Any]:
        return dict(model.evaluate(data, steps=steps, callbacks=callbacks, verbose=0, return_dict=True))

    return evaluate


def _write_model(model: Any, task: TrainTask, model_dir: str, inexact: Sequence[str]) -> Signature:
    from sparkdl.model.save import write_model

    dataset, target = task.dataset, task.config.target
    return write_model(
        model,
        model_dir,
        encoders=dataset.encoders,
        label_encoders=dataset.label_encoders if target == "label" else (),
        raw_types={name: dataset.raw_types[name] for name in dataset.features},
        target=target,
        inexact=inexact,
    )


def evaluate_rank(task: EvaluateTask) -> dict[str, Any]:
    """Evaluate on this rank's share. Returns loss and metrics over all rows, the same on every rank."""
    here = start_rank()
    import keras

    from sparkdl.data.feed.feed import Feed
    from sparkdl.data.feed.tensors import step_dataset
    from sparkdl.model.load import load_keras
    from sparkdl.train.exact.collective import join_world
    from sparkdl.train.exact.instrument import StepOptions, build, check_model, exact_steps
    from sparkdl.train.exactness.judge import judge

    join_world(here)
    signature = Signature.read(task.model_dir)
    keras.config.set_floatx(signature.floatx)
    model = load_keras(task.model_dir, signature, custom_objects=task.custom_objects, safe_mode=task.safe_mode)
    check_model(model)
    example = example_of(task.dataset, signature.target)
    build(model, example)
    feed = Feed(
        task.dataset,
        task.dataset.split(task.split),
        rank=here.rank,
        world_size=here.size,
        global_batch_size=task.global_batch_size,
        seed=None,
        cores=_cores(),
    )
    steps = feed.plan(0).steps
    split = task.dataset.split(task.split)
    findings = judge(
        model,
        task.dataset,
        split,
        here,
        exactness=task.exactness,
        target=signature.target,
        global_batch_size=task.global_batch_size,
        training=False,
    )
    options = StepOptions(findings=findings, per_worker=task.exactness == "per_worker")
    with exact_steps(model, here, example, options):
        data = step_dataset(feed, task.dataset.layout, [0], target=signature.target)
        logs = model.evaluate(data, steps=steps, verbose=0, return_dict=True)
    return {name: np.asarray(value).tolist() for name, value in logs.items()}


def _options(config: TrainConfig, dataset: Dataset) -> Any:
    from sparkdl.train.exact.instrument import StepOptions

    return StepOptions(
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        compression=config.compression,
        sync_batch_norm=config.sync_batch_norm,
        class_weights=class_weights(config.class_weight, dataset),
        per_worker=config.exactness == "per_worker",
    )


def start_rank() -> World:
    """What comes before Keras is imported: the backend, and quiet libraries."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    load_libraries()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for device in gpus:
        tf.config.experimental.set_memory_growth(device, True)
    if not gpus:  # the thread that feeds a GPU must be able to take a core from those that prepare rows
        compute_undisturbed()
    return world()


def _cores() -> int:
    """The rank's cores, which the launcher has set."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def _validation(dataset: Dataset, config: TrainConfig) -> Any:
    if config.validation is None or config.validation not in dataset.splits:
        return None
    return dataset.split(config.validation)


def _feed(task: TrainTask, split: Any, here: World, *, seed: int | None) -> Any:
    from sparkdl.data.feed.feed import Feed

    return Feed(
        task.dataset,
        split,
        rank=here.rank,
        world_size=here.size,
        global_batch_size=task.config.global_batch_size,
        seed=seed,
        reader=task.config.reader,
        cores=_cores(),
    )
