"""Preflight: what is refused before anything runs, and in which words."""

import pytest

from sparkdl.launch.checks.preflight import (
    arrival_limit,
    declared_slots,
    encryption_refusal,
    gpu_refusal,
    is_one_process,
    refusal,
    unused_gpus,
    whole_gpus,
)

TASK, EXECUTOR = "spark.task.resource.gpu.amount", "spark.executor.resource.gpu.amount"


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
        ("local-cluster[2,3,1024]", {"task_gpus": 1, "executor_gpus": 2}, 4),
        ("local-cluster[2,3,1024]", {"task_gpus": 0.25, "executor_gpus": 1}, 6),
        ("yarn", {"executors": 4, "executor_cores": 5, "task_gpus": 2, "executor_gpus": 4}, 8),
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
            "num_workers=8 but local[5] has 5 slots in all; use num_workers <= 5 or more executor cores (or GPUs)",
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
    ("age_s", "expected", "seconds"), [(5, False, 60), (31, False, 3), (31, True, 60), (10_000, True, 60)]
)
def test_an_old_session_whose_settings_promise_no_more_slots_is_not_waited_for(age_s, expected, seconds):
    assert arrival_limit(age_s, 60, expected=expected) == seconds


@pytest.mark.parametrize(
    ("master", "expected"),
    [("local", True), ("local[2]", True), ("local-cluster[1,1,1024]", False), ("yarn", False)],
)
def test_only_local_masters_run_their_tasks_on_the_drivers_machine(master, expected):
    assert is_one_process(master) is expected


@pytest.mark.parametrize(
    "setting",
    ["spark.network.crypto.enabled", "spark.authenticate.enableSaslEncryption", "spark.ssl.rpc.enabled"],
)
def test_an_encrypting_session_is_refused_with_its_setting_and_the_way_out(setting):
    for master in ("yarn", "spark://host:7077", "local-cluster[2,1,1024]"):
        assert encryption_refusal(master, {setting: "True"}) == (
            f"{setting}=true encrypts this session's connections, but ranks talk to each other (Gloo) and to the "
            "driver unencrypted; LaunchConfig(allow_unencrypted=True) lets them"
        )
        assert encryption_refusal(master, {setting: "false"}) is None
    assert encryption_refusal("local[*]", {setting: "true"}) is None


@pytest.mark.parametrize("settings", [{}, {"spark.authenticate": "true"}, {"spark.ssl.enabled": "true"}])
def test_what_does_not_encrypt_sparks_own_connections_is_no_obstacle(settings):
    assert encryption_refusal("yarn", settings) is None


@pytest.mark.parametrize(
    ("gpus", "master", "settings", "message"),
    [
        (0, "yarn", {}, None),
        (0, "yarn", {TASK: "0.5", EXECUTOR: "1"}, None),
        (1, "yarn", {TASK: "1", EXECUTOR: "4"}, None),
        (2, "yarn", {TASK: "2.0", EXECUTOR: "2"}, None),
        (0, "local[2]", {}, None),
        (
            1,
            "yarn",
            {EXECUTOR: "1"},
            f"gpus_per_worker=1 but {TASK} is not set, so that tasks own no GPUs; set it to 1",
        ),
        (2, "yarn", {TASK: "1", EXECUTOR: "2"}, f"gpus_per_worker=2 but {TASK}=1; set it to 2"),
        (
            1,
            "yarn",
            {TASK: "0.5", EXECUTOR: "1"},
            f"gpus_per_worker=1 but {TASK}=0.5: several tasks share a GPU, which ranks cannot; set it to 1",
        ),
        (
            1,
            "yarn",
            {TASK: "1"},
            f"gpus_per_worker=1 but executors register no GPUs; set {EXECUTOR} to the GPUs of one executor",
        ),
        (
            1,
            "local[2]",
            {},
            "gpus_per_worker=1 but tasks of local[2] own no GPUs; use local=True for ranks on this machine's GPUs",
        ),
        (
            0,
            "local[2]",
            {TASK: "1"},
            f"{TASK}=1 lets no task of local[2] start, for its tasks never own GPUs; unset it",
        ),
    ],
)
def test_gpus_that_tasks_cannot_give_are_refused_in_one_line(gpus, master, settings, message):
    assert gpu_refusal(gpus, master, settings) == message


@pytest.mark.parametrize(
    ("gpus", "settings", "message"),
    [
        (0, {}, None),
        (1, {TASK: "1"}, None),
        (0, {TASK: "2"}, f"{TASK}=2 but gpus_per_worker=0: the ranks use no GPU; set gpus_per_worker=2"),
        (
            0,
            {TASK: "0.5"},
            f"{TASK}=0.5 but gpus_per_worker=0: the ranks use no GPU; set both to 1 where each rank is to have one",
        ),
    ],
)
def test_gpus_that_lie_idle_are_worth_a_warning(gpus, settings, message):
    assert unused_gpus(gpus, settings) == message


@pytest.mark.parametrize(("amount", "whole"), [("0", 0), ("1", 1), ("2.0", 2), ("0.5", 0), ("1.5", 0)])
def test_only_whole_gpus_can_be_a_ranks_own(amount, whole):
    assert whole_gpus(amount) == whole
