"""Give tests ranks that start quickly: worker groups of this machine, each for one description of a launch."""

from sparkdl import LaunchConfig, WorkerGroup

# Processes that no test has used for this long end.
IDLE_S = 30.0
# pytest changes this variable in each test, and another environment would start other processes.
ENV = {"PYTEST_CURRENT_TEST": ""}

_groups: dict[str, WorkerGroup] = {}


def local_group(workers: int, **options: object) -> WorkerGroup:
    """The session's group of so many ranks on this machine."""
    launch = LaunchConfig(num_workers=workers, local=True, env=ENV, **options)  # type: ignore[arg-type]
    return _groups.setdefault(repr(launch), WorkerGroup(launch, idle_timeout_s=IDLE_S))
