"""Refuse Horovod's elastic training by name: the ranks of a launch neither come nor go. Runs in rank processes."""

from typing import NoReturn

from sparkdl.errors import ConfigError

_NAMES = ("CommitStateCallback", "KerasState", "UpdateBatchStateCallback", "UpdateEpochStateCallback", "run")


def __getattr__(name: str) -> NoReturn:
    """Raise ConfigError for a name that Horovod's module has, AttributeError for any other."""
    if name not in _NAMES:
        raise AttributeError(f"module 'hvd.elastic' has no attribute {name!r}")
    raise ConfigError(
        f"hvd.elastic.{name} is not supported: the ranks of a launch neither come nor go; save checkpoints and start "
        "again, or use sparkdl.fit, which does both (max_restarts)"
    )
