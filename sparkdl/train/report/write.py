"""Write the report of a run that has ended: its record, its configuration and its environment.

Runs on the driver. A report that cannot be written is a warning, because its content is in other files, too.
"""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from sparkdl import storage
from sparkdl.data.dataset import Dataset
from sparkdl.data.layout import Field
from sparkdl.errors import WorkerError, shown
from sparkdl.launch.config import LaunchConfig
from sparkdl.train.report.page import render
from sparkdl.train.run.checkpoint import read_checkpoint
from sparkdl.train.run.record import Recorded
from sparkdl.train.spec import TrainSpec

__all__ = ["config_facts", "report_failure", "report_result"]

log = logging.getLogger(__name__)

MAX_FIELDS = 40


def report_result(task: TrainSpec, launch: LaunchConfig, recorded: Recorded) -> None:
    """Write the report of a run that has finished."""
    try:
        _write(task, launch, recorded, "Finished.")
    except Exception as error:  # the run has its result
        log.warning("%s cannot be written: %s", task.run.report, error)


def report_failure(task: TrainSpec, launch: LaunchConfig, error: WorkerError) -> None:
    """Write the report of the epochs in the last checkpoint, if there are any."""
    try:
        latest = task.run.latest_checkpoint()
        recorded = Recorded() if latest is None else Recorded.from_json(read_checkpoint(latest).facts)
        if recorded.history:
            outcome = f"Ended by the failure of a rank ({error.kind}); the epochs are those of the last checkpoint."
            _write(task, launch, recorded, outcome)
    except Exception as other:  # the failure itself is what the user must see
        log.warning("%s cannot be written: %s", task.run.report, other)


def _write(task: TrainSpec, launch: LaunchConfig, recorded: Recorded, outcome: str) -> None:
    facts = {
        "Configuration": {"build_model": _said(task.build_model), **config_facts(task.config)},
        "Launch": config_facts(launch),
        "Dataset": dataset_facts(task.dataset),
        "Environment": _environment_facts(recorded, launch),
    }
    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    page = render(recorded, run_dir=task.run.path, outcome=outcome, written=written, facts=facts)
    storage.write_atomic(task.run.report, page.encode())


def config_facts(config: Any) -> dict[str, str]:
    """Return the options of a configuration, nested ones as `checkpoint.keep`; of environment variables the names."""
    found: dict[str, str] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{field.name}.{name}": inner for name, inner in config_facts(value).items()}
        elif field.name == "env":
            found["env"] = ", ".join(sorted(value)) + " (values are not shown)" if value else "none"
        else:
            found[field.name] = _said(value)
    return found


def _said(value: object) -> str:
    if callable(value):
        return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if isinstance(value, str):
        return value
    return "none" if value is None else shown(dict(value) if isinstance(value, Mapping) else value)


def dataset_facts(dataset: Dataset) -> dict[str, str]:
    """Describe the dataset that was trained on."""
    train = dataset.split("train")
    facts = {
        "path": dataset.path,
        "fingerprint": dataset.fingerprint,
        "rows": ", ".join(f"{name} {dataset.split(name).rows:,}" for name in dataset.splits),
        "parts": f"train {len(train.parts):,} files, {len(train.row_group_rows):,} row groups",
        "lanes": str(dataset.lanes),
        "seed": str(dataset.seed),
    }
    for role in ("feature", "label", "weight"):
        if fields := dataset.layout.of_role(role):
            facts[f"{role}s" if role != "weight" else role] = _fields(fields)
    return facts


def _fields(fields: Sequence[Field]) -> str:
    said = ", ".join(f"{field.name} {field.dtype} {list(field.shape)}" for field in fields[:MAX_FIELDS])
    return said if len(fields) <= MAX_FIELDS else f"{said} and {len(fields) - MAX_FIELDS} more"


def _environment_facts(recorded: Recorded, launch: LaunchConfig) -> dict[str, str]:
    """Return versions and hosts of the ranks of the last launch, and the versions of the driver."""
    import pyspark  # not at the top: importing sparkdl does not load it

    hosts = Counter(recorded.ranks[-1]["hosts"])
    return {
        **recorded.environment,
        "Spark": "not used" if launch.local else pyspark.__version__,
        "Driver": f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        "Hosts": ", ".join(f"{host} ({ranks})" for host, ranks in hosts.items()),
    }
