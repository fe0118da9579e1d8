"""Preflight: what is refused before anything runs, and in which words."""

import pytest

from sparkdl.launch.preflight import declared_slots, is_one_process, refusal


@pytest.mark.parametrize(
    ("master", "settings", "slots"),
    [
        ("local", {}, 1),
        ("local[5]", {}, 5),
        ("local[5,2]", {}, 5),
        ("local[*]", {"cores": 12}, 12),
        ("local[*, 3]", {"cores": 12}, 12),
        ("local[5]", {"task_cpus": 2}, 2),
        ("local-cluster[2,3,1024]", {}, 6),
        ("local-cluster[2,3,1024]", {"task_cpus": 2}, 2),
        ("yarn", {"executors": 4, "executor_cores": 5, "task_cpus": 2}, 8),
        ("k8s://https://host", {"executors": 4, "executor_cores": 1}, 4),
        ("yarn", {"executor_cores": 5}, None),
        ("spark://host:7077", {"executors": 4, "executor_cores": 5}, None),
    ],
)
def test_slots_are_counted_only_where_the_settings_are_sure(master, settings, slots):
    assert declared_slots(master, **settings) == slots


@pytest.mark.parametrize(
    ("num_workers", "master", "slots", "dynamic", "message"),
    [
        (
            8,
            "local[5]",
            5,
            False,
            "num_workers=8 but local[5] has 5 slots in all; use num_workers <= 5 or more executor cores",
        ),
        (1, "local[2]", 0, False, "num_workers=1 but local[2] has 0 slots in all; lower spark.task.cpus"),
        (5, "local[5]", 5, False, None),
        (99, "spark://host:7077", None, False, None),
        (5, "local[5]", 5, True, None),
    ],
)
def test_too_many_workers_are_refused_in_one_line(num_workers, master, slots, dynamic, message):
    assert refusal(num_workers, master, slots=slots, dynamic_allocation=dynamic) == message


def test_dynamic_allocation_is_refused_with_the_setting_to_change():
    message = refusal(2, "yarn", slots=None, dynamic_allocation=True)
    assert message is not None and "spark.dynamicAllocation.enabled=false" in message


@pytest.mark.parametrize(
    ("master", "expected"),
    [("local", True), ("local[2]", True), ("local-cluster[1,1,1024]", False), ("yarn", False)],
)
def test_only_local_masters_run_their_tasks_on_the_drivers_machine(master, expected):
    assert is_one_process(master) is expected
