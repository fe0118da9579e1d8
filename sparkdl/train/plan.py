"""Plan what `fit` does: check all that the driver can check, and find what is in the run's folder.

Runs on the driver; starts no rank and writes nothing. `fit` carries the plan out, a dry run shows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sparkdl import storage
from sparkdl.data.dataset import Dataset
from sparkdl.data.generations import check_held
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.group import WorkerGroup
from sparkdl.launch.run import check_launch
from sparkdl.train.checks.check_call import check_places, check_training, closure_limit
from sparkdl.train.config import TrainConfig
from sparkdl.train.entry import train_rank
from sparkdl.train.run.checkpoint import read_checkpoint
from sparkdl.train.run.made_by import changed_code, code_of
from sparkdl.train.run.replace import goes_on
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.run.run_record import run_check
from sparkdl.train.spec import TrainSpec

if TYPE_CHECKING:
    from keras import Model

__all__ = ["FitPlan", "plan_fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlan:
    """Describe what `fit` is going to do.

    Attributes:
        task: the specification of the training, for the ranks.
        action: "begin" a run in an empty folder; "replace" the run in the folder; "go on" with that run; "give back"
            its result, if the same code would still make it.
        history: of the finished run that is given back; else None.
    """

    task: TrainSpec
    action: Literal["begin", "replace", "go on", "give back"]
    history: list[dict[str, Any]] | None = None

    @property
    def state(self) -> str:
        """The state of the folder, in words: "new", "finished", "goes on before epoch 2, step 8", …"""
        run = self.task.run
        if self.action == "begin":
            return "new"
        if self.action == "replace":
            return "replaces the run there"
        if self.action == "give back":
            changed = changed_code(run, self.task.code)
            return "finished" if changed is None else f"finished; {changed} may have changed, fit builds and compares"
        checkpoint = run.latest_checkpoint()
        return f"goes on before {read_checkpoint(checkpoint).position}" if checkpoint else "has no checkpoint yet"

    def facts(self, launch: LaunchConfig | WorkerGroup) -> dict[str, Any]:
        """Return what a dry run shows: `run_dir`, `state`, `rows`, `steps` of an epoch, `epochs`, `ranks` to start.

        Raises what the launch raises before it starts ranks. The model itself is only known in ranks.
        """
        dataset, config = self.task.dataset, self.task.config
        rows = dataset.split("train").rows
        return {
            "run_dir": self.task.run.path,
            "state": self.state,
            "rows": rows,
            "steps": config.steps_per_epoch or -(-rows // config.global_batch_size),
            "epochs": config.epochs,
            "ranks": check_launch(train_rank, (self.task,), launch=launch, closure_limit=closure_limit(dataset)),
        }


def plan_fit(
    build_model: Callable[[Dataset], Model],
    dataset: Dataset,
    config: TrainConfig,
    *,
    launch: LaunchConfig | WorkerGroup,
) -> FitPlan:
    """Plan a `fit`. Raises what `fit` raises before it starts ranks."""
    check_places(dataset, launch)
    check_training(build_model, dataset, config)
    run = RunDir(storage.absolute(config.run_dir))
    config = dataclasses.replace(config, run_dir=run.path)
    replaces = config.resume == "replace"
    if replaces or not storage.exists(run.finished):
        check_held(dataset)  # before the run's record names the dataset
    code = code_of(build_model, config.callbacks, config.augment)
    task = TrainSpec(build_model=build_model, dataset=dataset, config=config, run=run, code=code)
    check = run_check(run, config, dataset)
    if replaces and not goes_on(run, check, code, epochs=config.epochs):
        return FitPlan(task=task, action="replace" if storage.exists(run.record) else "begin")
    if not check("auto" if replaces else config.resume):
        return FitPlan(task=task, action="begin")
    history = run.result(config.epochs)
    return FitPlan(task=task, action="go on" if history is None else "give back", history=history)
