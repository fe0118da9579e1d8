"""Train and evaluate on ranks: `fit` and `evaluate`. Runs on the driver, and checks what it can first."""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sparkdl import storage
from sparkdl.checks import require_exactness, require_whole
from sparkdl.data.dataset import Dataset
from sparkdl.data.generations import check_held
from sparkdl.errors import ConfigError, WorkerError, shown
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.group import WorkerGroup, launch_of
from sparkdl.launch.run import launch_ranks
from sparkdl.launch.worker import graceful_stop
from sparkdl.model.custom_objects import check_custom_objects
from sparkdl.model.signature import Signature
from sparkdl.progress import TrainingProgress
from sparkdl.train.checks.check_call import check_launch_config, check_places, closure_limit
from sparkdl.train.config import TrainConfig
from sparkdl.train.entry import EVALUATE_MODULES, TRAIN_MODULES, evaluate_rank, train_rank
from sparkdl.train.finished import check_exactness, check_finished
from sparkdl.train.plan import plan_fit
from sparkdl.train.raw_rows import SPLIT, is_frame, prepared_rows
from sparkdl.train.report.write import report_failure, report_result
from sparkdl.train.run.best_model import best_model_dir
from sparkdl.train.run.checkpoint import read_json, sweep_checkpoints
from sparkdl.train.run.made_by import read_made_by
from sparkdl.train.run.record import Recorded
from sparkdl.train.run.replace import discard_replaced, kept_aside, set_aside
from sparkdl.train.run.run_lock import RunLock
from sparkdl.train.run.run_record import run_record
from sparkdl.train.spec import EvaluateSpec, TrainSpec

if TYPE_CHECKING:
    from keras import Model
    from pyspark.sql import DataFrame

__all__ = ["TrainResult", "evaluate", "fit"]

log = logging.getLogger(__name__)

# Kinds of failure after which the run restarts: they are not caused by the user's code.
RESTARTED = ("signal", "lost")
# Lost executors take some seconds to come back.
RESTART_WAITS_S = (1.0, 5.0, 15.0)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Hold the result of `fit`.

    Attributes:
        history: one dict per epoch: epoch, loss, metrics and val_*; lr, the rate with which the epoch's last step was
            taken (`lr_<name>` for each optimizer of a MultiOptimizer); seconds and rows_per_second of its training;
            data_wait_seconds, of the rank that waited longest; allreduce_share, the fraction of the epoch that a rank
            spent in the reduction of gradients, waiting for others included, in the mean over ranks; gradient_norm, the
            mean over steps of the global norm of the gradient over all ranks, before clipping and without loss
            scaling. A model that has several optimizers and overrides train_step has no gradient_norm, nor have workers
            that train alone (`sync_every`). per_worker, if anything is: names what depends on the number of workers.
        model_dir: the directory of the trained model, for predict_udf, transform, evaluate and load_model.
        best_model_dir: the directory of the best epoch's model, if `checkpoint.monitor` asked for it while the run
            trained; else None.
        initial_layers: with initial_weights="matching" each layer of the model by its path: "loaded", or the reason why
            it did not take the weights of `initial_model`; else None.
    """

    history: list[dict[str, Any]]
    model_dir: str
    best_model_dir: str | None = None
    initial_layers: dict[str, str] | None = None


def fit(
    build_model: Callable[[Dataset], Model],
    dataset: Dataset,
    config: TrainConfig,
    *,
    launch: LaunchConfig | WorkerGroup,
) -> TrainResult:
    """Train a Keras model, data-parallel, with the same result on any number of ranks.

    Args:
        build_model: called in every rank with the dataset; imports keras itself; returns a compiled model.
        dataset: a prepared dataset, with a label unless `config.target` is "inputs".
        config: the options that determine the result.
        launch: where the ranks run; a worker group keeps their start short.

    Raises:
        ConfigError: more workers than lanes, no label.
        DatasetError: the dataset's parts are gone: it was prepared anew twice, moved or damaged.
        CheckpointError: run_dir holds another run, or that of another model, cannot be written, or another driver is
            training there; `config.resume` says what may be there.
        ModelError: the model cannot be trained exactly; the message names why.
        LaunchError: the ranks could not be started.
        WorkerError: a rank failed: its traceback is in the message.
    """
    plan = plan_fit(build_model, dataset, config, launch=launch)
    task, run, history = plan.task, plan.task.run, plan.history
    if plan.action == "replace":
        set_aside(run)
    if plan.action in ("begin", "replace"):
        run.begin(run_record(task.config, dataset), resume=config.resume)
    if history is None:
        history = _trained(task, launch)
    else:
        check_finished(task, launch, closure_limit=closure_limit(dataset))
        check_exactness(run, history, config.exactness)
        log.warning("run_dir=%s holds this run, finished: its result is given back, and nothing is trained", run.path)
    made_by = read_made_by(run.code)
    directions = made_by.directions if made_by is not None else {}
    initial = read_json(run.initial) if config.initial_weights == "matching" else None
    layers = None if initial is None else {**dict.fromkeys(initial["loaded"], "loaded"), **initial["not_loaded"]}
    return TrainResult(history, run.model, best_model_dir(run, config.checkpoint, directions), layers)


def _trained(task: TrainSpec, launch: LaunchConfig | WorkerGroup) -> list[dict[str, Any]]:
    """Train until the run is finished, and return its history."""
    run = task.run
    with RunLock(run.path, run.driver) as lock:
        try:
            recorded = _train(task, launch, lock)
        except BaseException as error:
            if isinstance(error, WorkerError):
                report_failure(task, launch_of(launch), error)
            for path in kept_aside(run):
                log.warning("the run that was in run_dir=%s lies in %s; it can be moved back", run.path, path)
            raise
        run.finish(recorded, task.config.epochs)
        report_result(task, launch_of(launch), recorded)
        discard_replaced(run)
    return recorded.history


def _train(task: TrainSpec, launch: LaunchConfig | WorkerGroup, lock: RunLock) -> Recorded:
    """Launch the ranks, again after a loss up to `max_restarts` times, and return what the run recorded."""
    run, restarts = task.run, task.config.max_restarts
    for attempt in range(restarts + 1):
        lock.check()
        # No rank writes here now, so uncommitted files can be deleted.
        sweep_checkpoints(run.checkpoints, keep=task.config.checkpoint.keep)
        task = dataclasses.replace(task, checkpoint=run.latest_checkpoint())
        try:
            with TrainingProgress() as progress, graceful_stop.obeyed() as asked:
                return launch_ranks(
                    train_rank,
                    (task,),
                    launch=launch,
                    description=f"sparkdl fit {run.path}",
                    on_event=progress.on_event,
                    log_dir=run.logs,
                    closure_limit=closure_limit(task.dataset),
                    asked=asked,
                    modules=TRAIN_MODULES,
                )[0]
        except WorkerError as error:
            if asked.is_set() or error.kind not in RESTARTED or attempt == restarts:
                raise
            wait_s = RESTART_WAITS_S[min(attempt, len(RESTART_WAITS_S) - 1)]
            first_line = str(error).splitlines()[0]
            log.warning("%s; restart %d of %d in %g s", first_line, attempt + 1, restarts, wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def evaluate(
    model_dir: str,
    dataset: Dataset | DataFrame,
    split: str | None = None,
    *,
    launch: LaunchConfig | WorkerGroup,
    label: str | Mapping[str, str] | None = None,
    weight: str | None = None,
    path: str | None = None,
    global_batch_size: int = 1024,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    exactness: str = "strict",
) -> dict[str, Any]:
    """Return loss and metrics of a trained model over all rows of a split, exact for any number of ranks.

    A loss with reduction="sum" is the sum over all rows, as `val_loss` is. The raw rows of a DataFrame are encoded by
    the model's own encoders, which are not fitted anew, and written as a dataset for the time of the call.

    Args:
        model_dir: as in `result.model_dir`.
        dataset: a dataset prepared with the same features, and labels unless the model was trained on its inputs; or a
            DataFrame of raw rows with the columns of features and labels.
        split: the split of the dataset whose rows are evaluated; None: "test". Of a DataFrame all rows are evaluated.
        label: for a DataFrame: the column of the label, if it does not bear the label's name; a dict by label for
            several.
        weight: for a DataFrame: the column of the rows' weights; None: each row counts 1.
        path: for a DataFrame: a folder or URL that does not exist and that all hosts see, where the encoded rows lie
            meanwhile; None: beside `model_dir`.
        launch: where the ranks run; a worker group keeps their start short.
        global_batch_size: rows of one step over all ranks; the result does not depend on it.
        custom_objects, safe_mode: as in `load_model`. The objects travel to the ranks as `build_model` does.
        exactness: as in `TrainConfig`: "strict" refuses, on several ranks, losses and metrics that depend on how rows
            are divided; "per_worker" computes them per rank and averages by rows. With one rank they depend on
            `global_batch_size`, and a warning says so.

    Raises:
        ModelError: no model there; a loss or metric is not exact; the model is not compiled.
        ConfigError: the dataset's features are not the model's; more workers than lanes; `custom_objects` is not a
            dict of classes and functions.
        DatasetError: no such split, or no rows; the dataset's parts are gone; `path` cannot be written.
        SchemaError: a column of the DataFrame is missing, or holds values that its encoder refuses.
    """
    check_custom_objects(custom_objects)
    model_dir = storage.absolute(model_dir)
    require_whole("global_batch_size", global_batch_size)
    require_exactness(exactness)
    signature = Signature.read(model_dir)
    options = {"custom_objects": custom_objects, "safe_mode": safe_mode, "exactness": exactness}
    if is_frame(dataset):
        check_launch_config(launch)
        if split is not None:
            raise ConfigError(f"split={shown(split)} is for a dataset; of a DataFrame all rows are evaluated")
        folder = f"{model_dir}.rows-{uuid.uuid4().hex[:8]}" if path is None else storage.absolute(path)
        if storage.listing(folder):
            raise ConfigError(f"path={folder} must not exist; it is deleted after the evaluation")
        signature.check_tokenizers(safe_mode=safe_mode)
        with prepared_rows(dataset, signature, label=label, weight=weight, folder=folder) as rows:
            check_places(rows, launch)
            return _evaluated(model_dir, rows, SPLIT, launch, global_batch_size, **options)
    given = {"label": label, "weight": weight, "path": path}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise ConfigError(f"{wrong[0]}={shown(given[wrong[0]])} is for a DataFrame; a dataset has its own")
    check_places(dataset, launch)
    dataset, split = cast(Dataset, dataset), split or "test"
    trained = [encoder.to_json() for encoder in (*signature.inputs, *signature.labels)]
    labels = dataset.label_encoders if signature.target == "label" else ()
    if trained != [encoder.to_json() for encoder in (*dataset.encoders, *labels)]:
        raise ConfigError(
            f"features and labels of {dataset.path} are not encoded as the model in {model_dir} was trained; "
            "evaluate it on the dataset that it was trained on"
        )
    if signature.target == "label" and not labels:
        raise ConfigError(
            f"{dataset.path} has no label to evaluate with; if the model in {model_dir} is an autoencoder, save it by "
            "sparkdl.save_model(…, target='inputs')"
        )
    dataset.split(split)
    check_held(dataset)
    return _evaluated(model_dir, dataset, split, launch, global_batch_size, **options)


def _evaluated(
    model_dir: str, dataset: Dataset, split: str, launch: LaunchConfig | WorkerGroup, rows_of_step: int, **options: Any
) -> dict[str, Any]:
    """Evaluate on ranks."""
    task = EvaluateSpec(
        model_dir=model_dir,
        dataset=dataset,
        split=split,
        global_batch_size=rows_of_step,
        **options,
    )
    results = launch_ranks(
        evaluate_rank,
        (task,),
        launch=launch,
        description=f"sparkdl evaluate {model_dir}",
        closure_limit=closure_limit(dataset),
        modules=EVALUATE_MODULES,
    )
    return dict(results[0])
