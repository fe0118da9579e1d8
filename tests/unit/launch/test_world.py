"""Worlds: who each rank is, given the hosts."""

import pytest

from sparkdl.launch.world import World, assign_worlds, world, world_environment, world_from


@pytest.mark.parametrize(
    ("hosts", "local_ranks", "local_sizes", "cross_ranks", "cross_sizes"),
    [
        (["a"], [0], [1], [0], [1]),
        (["a", "a"], [0, 1], [2, 2], [0, 0], [1, 1]),
        (["a", "b"], [0, 0], [1, 1], [0, 1], [2, 2]),
        (["a", "a", "b", "b"], [0, 1, 0, 1], [2, 2, 2, 2], [0, 0, 1, 1], [2, 2, 2, 2]),
        (["a", "b", "a", "b"], [0, 0, 1, 1], [2, 2, 2, 2], [0, 1, 0, 1], [2, 2, 2, 2]),
        (["a", "b", "b"], [0, 0, 1], [1, 2, 2], [0, 1, 0], [2, 2, 1]),
        (["b", "a", "c", "a", "c"], [0, 0, 0, 1, 1], [1, 2, 2, 2, 2], [0, 1, 2, 0, 1], [3, 3, 3, 2, 2]),
    ],
)
def test_local_and_cross_ranks_follow_from_the_hosts_in_rank_order(
    hosts, local_ranks, local_sizes, cross_ranks, cross_sizes
):
    worlds = assign_worlds(hosts)
    assert [w.rank for w in worlds] == list(range(len(hosts)))
    assert {w.size for w in worlds} == {len(hosts)}
    assert [w.host for w in worlds] == hosts
    assert [w.local_rank for w in worlds] == local_ranks
    assert [w.local_size for w in worlds] == local_sizes
    assert [w.cross_rank for w in worlds] == cross_ranks
    assert [w.cross_size for w in worlds] == cross_sizes


def test_worlds_are_those_that_horovod_assigns_to_the_same_hosts():
    hosts = pytest.importorskip("horovod.runner.common.util.hosts")
    slots = hosts.get_host_assignments(hosts.parse_hosts("a:2,b:1,c:3"), 6)
    worlds = assign_worlds(["a", "a", "b", "c", "c", "c"])
    names = ("rank", "size", "local_rank", "local_size", "cross_rank", "cross_size")
    assert [[getattr(w, n) for n in names] for w in worlds] == [[getattr(s, n) for n in names] for s in slots]


def test_a_world_survives_the_environment():
    place = assign_worlds(["a", "b", "b"])[2]
    assert world_from(world_environment(place)) == place


def test_outside_a_rank_the_world_has_one_rank(monkeypatch):
    monkeypatch.delenv("HOROVOD_RANK", raising=False)
    assert (world().rank, world().size) == (0, 1)


def test_a_world_names_itself():
    assert World(rank=2, size=8, host="host-a").describe() == "rank 2/8 host-a"
