"""GPUs of a rank: which ones a machine has, whose they are, and what a process is told."""

import pytest

from sparkdl.launch.checks.gpus import addresses_for, gpu_environment, shared_addresses, too_few, visible_gpus


@pytest.mark.parametrize(
    ("environment", "devices", "visible"),
    [
        ({}, [], ()),
        ({}, ["null", "nvidiactl", "nvidia-uvm", "nvidia1", "nvidia0", "nvidia-caps"], ("0", "1")),
        ({}, [f"nvidia{i}" for i in range(12)], tuple(map(str, range(12)))),
        # A container that was given the fourth GPU.
        ({}, ["nvidia3"], ("0",)),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["nvidia0"], ()),
        ({"CUDA_VISIBLE_DEVICES": "2, 0"}, ["nvidia0"], ("2", "0")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c,MIG-GPU-89/1/0"}, [], ("GPU-8932f937-d72c", "MIG-GPU-89/1/0")),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ["nvidia0"], ()),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, ["nvidia0"], ("1",)),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ["nvidia0"], ()),
    ],
)
def test_the_gpus_of_a_machine_are_those_that_cuda_shows(environment, devices, visible):
    assert visible_gpus(environment, devices) == visible


def test_this_machines_devices_are_looked_at_where_none_are_given():
    assert all(address.isdigit() for address in visible_gpus({}))


@pytest.mark.parametrize(("gpus", "each"), [(4, 1), (4, 2), (6, 3), (5, 2)])
def test_local_ranks_share_no_gpu(gpus, each):
    visible = tuple(f"GPU-{i}" for i in range(gpus))
    shares = [addresses_for(rank, each, visible) for rank in range(gpus // each)]
    assert all(len(share) == each for share in shares)
    assert [address for share in shares for address in share] == list(visible[: gpus // each * each])
    assert addresses_for(1, 0, visible) == ()


@pytest.mark.parametrize(
    ("workers", "each", "visible", "message"),
    [
        (
            3,
            2,
            ("0", "1", "2", "3", "4"),
            "num_workers=3 with gpus_per_worker=2 need 6 GPUs but this machine shows 5; use num_workers <= 2, or show "
            "more in CUDA_VISIBLE_DEVICES",
        ),
        (
            2,
            1,
            (),
            "num_workers=2 with gpus_per_worker=1 need 2 GPUs but this machine shows 0; use gpus_per_worker=0, which "
            "trains on CPUs, or show more in CUDA_VISIBLE_DEVICES",
        ),
    ],
)
def test_too_few_gpus_are_refused_in_one_line(workers, each, visible, message):
    assert too_few(workers, each, visible) == message


def test_a_process_is_told_its_gpus_in_the_order_of_the_discovery_script():
    assert gpu_environment(("3", "1")) == {"CUDA_VISIBLE_DEVICES": "3,1"}


def test_a_process_without_gpus_sees_none():
    assert gpu_environment(()) == {"CUDA_VISIBLE_DEVICES": ""}
    assert visible_gpus(gpu_environment(()), ["nvidia0"]) == ()


def test_ranks_with_gpus_of_their_own_are_accepted():
    assert shared_addresses([("a", ("0",)), ("b", ("0",)), ("a", ("1", "2")), ("b", ("1",))]) is None
    assert shared_addresses([("a", ()), ("a", ())]) is None


def test_two_ranks_on_one_gpu_are_named():
    message = shared_addresses([("a", ("0",)), ("b", ("0", "1")), ("c", ("0",)), ("b", ("2", "1"))])
    assert message is not None and message.startswith("ranks 1 and 3 on b both got GPU 1: ")
    assert "spark.worker.resource.gpu.discoveryScript" in message and "\n" not in message
