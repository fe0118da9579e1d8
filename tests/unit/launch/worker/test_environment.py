"""The rank's environment, what of its output is shown, and which hosts cannot reach each other."""

import pytest

from sparkdl.launch.driver.console import shown_line
from sparkdl.launch.worker.environment import Settings, gloo_timeout_s, interface_of, rank_environment, search_path
from sparkdl.launch.world import assign_worlds

SETTINGS = Settings(env=(("TF_CPP_MIN_LOG_LEVEL", "0"), ("MINE", "1")), stall_timeout_s=12.7, cores=3)


def environment(base=None, interface=None, gpus=()):
    place = assign_worlds(["a", "b"])[1]
    return rank_environment(
        base or {}, place, SETTINGS, rendezvous=("10.0.0.1", 77), interface=interface, path=("/x", "/y"), gpus=gpus
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOROVOD_RANK", "1"),
        ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "10.0.0.1"),
        ("HOROVOD_GLOO_RENDEZVOUS_PORT", "77"),
        ("HOROVOD_GLOO_TIMEOUT_SECONDS", "16"),
        ("HOROVOD_CONTROLLER", "gloo"),
        ("OMP_NUM_THREADS", "3"),
        ("TF_NUM_INTRAOP_THREADS", "3"),
        ("CUDA_VISIBLE_DEVICES", ""),
        ("PYTHONPATH", "/x:/y"),
        ("MINE", "1"),
    ],
)
def test_a_rank_gets_its_variables(name, value):
    assert environment({"OMP_NUM_THREADS": "1", "HOROVOD_RANK": "7"})[name] == value


def test_a_rank_sees_its_own_gpus_alone():
    env = environment({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, gpus=("2", "3"))
    assert env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environment({"CUDA_VISIBLE_DEVICES": "0,1,2,3"})["CUDA_VISIBLE_DEVICES"] == ""


def test_gloo_waits_longer_than_the_launcher_and_never_longer_than_it_can_count():
    assert gloo_timeout_s(300) == 304
    assert gloo_timeout_s(float("inf")) == 2_147_483


def test_the_users_variables_come_last():
    assert environment()["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_the_base_environment_is_kept_but_for_the_secrets_of_spark():
    env = environment({"HOME": "/h", "PYTHON_WORKER_FACTORY_SECRET": "s", "PYSPARK_GATEWAY_SECRET": "s"})
    assert env["HOME"] == "/h" and not any("SECRET" in name for name in env)


def test_an_interface_left_by_another_run_is_not_inherited():
    assert "HOROVOD_GLOO_IFACE" not in environment({"HOROVOD_GLOO_IFACE": "eth9"})
    assert environment(interface="lo")["HOROVOD_GLOO_IFACE"] == "lo"


def test_search_paths_are_absolute_and_name_each_place_once():
    assert search_path(["", "/a", "lib.zip"], ["/a", "/b"], folder="/w") == ("/w", "/a", "/w/lib.zip", "/b")


def test_the_interface_is_the_one_that_holds_the_address():
    interfaces = {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1", "fe80::1"]}
    assert interface_of("10.0.0.1", interfaces) == "eth0"
    assert interface_of("10.0.0.2", interfaces) is None


@pytest.mark.parametrize(
    ("rank", "log", "line"),
    [
        (0, "rank0", "hi"),
        (1, "rank0", None),
        (0, "all", "[rank 0] hi"),
        (1, "all", "[rank 1] hi"),
        (0, "errors", None),
    ],
)
def test_the_log_option_decides_whose_lines_are_shown(rank, log, line):
    assert shown_line(rank, "hi", log) == line
