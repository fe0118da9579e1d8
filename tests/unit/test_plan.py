"""The order of an epoch: exactly once, the same for any number of workers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkdl.data.geometry import part_count, rows_per_row_group
from sparkdl.data.plan import EpochPlan, row_permutation


def rows_of(plan: EpochPlan, lane: int, start: int, stop: int) -> list[tuple[int, int]]:
    """The (row group, row) pairs that a lane gives from `start` to `stop`."""
    runs = plan.runs(np.array([lane]), np.array([start]), np.array([stop]))
    found = []
    for row_group, first, last in zip(runs.row_groups, runs.starts, runs.stops, strict=True):
        found.extend((int(row_group), int(row)) for row in plan.permute(int(row_group))[first:last])
    return found


def rows_of_step(plan: EpochPlan, rank: int, world_size: int, step: int) -> list[tuple[int, int]]:
    """(row group, row) pairs of a rank in a step, by the same calls that the feed makes."""
    shares = plan.shares(rank, world_size, step, step + 1)
    owned = plan.owned_lanes(rank, world_size)
    return [
        pair
        for place, lane in enumerate(owned)
        for pair in rows_of(plan, int(lane), int(shares[0, place]), int(shares[1, place]))
    ]


def written_out(plan: EpochPlan) -> list[tuple[int, int]]:
    """The epoch as its definition says: round after round, every lane that still has rows gives one."""
    lanes = [rows_of(plan, lane, 0, int(plan.lane_rows[lane])) for lane in range(plan.lanes)]
    longest = max((len(rows) for rows in lanes), default=0)
    return [rows[turn] for turn in range(longest) for rows in lanes if turn < len(rows)]


small_plans = st.builds(
    lambda sizes, lanes, batch, seed, epoch: EpochPlan(
        sizes, lanes=lanes, global_batch_size=batch, seed=seed, epoch=epoch
    ),
    st.lists(st.integers(1, 25), min_size=1, max_size=40),
    st.integers(1, 24),
    st.integers(1, 60),
    st.one_of(st.none(), st.integers(0, 2**40)),
    st.integers(0, 1000),
)


@settings(max_examples=150, deadline=None)
@given(small_plans, st.data())
def test_every_step_is_its_slice_of_the_epoch_for_any_number_of_workers(plan: EpochPlan, data: st.DataObject) -> None:
    world_size = data.draw(st.integers(1, plan.lanes))
    epoch = written_out(plan)
    assert len(set(epoch)) == len(epoch) == plan.rows
    for step in range(plan.steps):
        fed = [row for rank in range(world_size) for row in rows_of_step(plan, rank, world_size, step)]
        assert sorted(fed) == sorted(epoch[step * plan.global_batch_size : (step + 1) * plan.global_batch_size])


large_plans = st.tuples(
    st.integers(1, 100_000), st.integers(1, 500), st.integers(1, 16), st.integers(1, 5000), st.integers(0, 2**32)
)


@settings(max_examples=1000, deadline=None)
@given(large_plans)
def test_counts_cover_all_rows_once_with_equal_steps(case: tuple[int, int, int, int, int]) -> None:
    rows, groups, world_size, batch, seed = case
    sizes = np.diff(np.linspace(0, rows, min(groups, rows) + 1).astype(int))
    plan = EpochPlan(sizes, lanes=64, global_batch_size=batch, seed=seed, epoch=seed % 7)
    steps = min(plan.steps, 50)  # the borders of a long epoch: its first and its last steps
    for start in {0, plan.steps - steps}:
        per_rank = [plan.step_rows(rank, world_size, start, start + steps) for rank in range(world_size)]
        borders = np.minimum(np.arange(start, start + steps + 1) * batch, rows)
        assert (np.sum(per_rank, axis=0) == np.diff(borders)).all()
    ends = plan.counts(np.array([0, rows]))
    assert (ends[0] == 0).all() and (ends[1] == plan.lane_rows).all() and ends[1].sum() == rows


@settings(max_examples=150, deadline=None)
@given(small_plans, st.data())
def test_each_row_group_is_read_by_one_rank_from_any_step_on(plan: EpochPlan, data: st.DataObject) -> None:
    world_size = data.draw(st.integers(1, plan.lanes))
    start = data.draw(st.integers(0, plan.steps))
    read = [int(group) for rank in range(world_size) for group in plan.reading_order(rank, world_size, start)]
    rest = {
        row[0]
        for step in range(start, plan.steps)
        for r in range(world_size)
        for row in rows_of_step(plan, r, world_size, step)
    }
    assert sorted(read) == sorted(rest)


def test_another_epoch_and_another_seed_give_another_order() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        return written_out(EpochPlan([7] * 30, lanes=8, global_batch_size=10, seed=seed, epoch=epoch))

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert order(1, 2) == order(1, 2)


def test_row_permutations_of_two_row_groups_differ() -> None:
    first, second = (row_permutation(50, seed=3, epoch=0, row_group=group) for group in (0, 1))
    assert sorted(first) == list(range(50)) and (first != second).any()


@pytest.mark.parametrize("rows", [192 * 4, 10_000, 400_000, 60_000])
@pytest.mark.parametrize("record_bytes", [4, 516, 12_292])
def test_prepared_geometry_shares_the_work_of_every_epoch(rows: int, record_bytes: int) -> None:
    parts = part_count(rows, record_bytes)
    group = rows_per_row_group(rows, record_bytes, lanes=192, parts=parts)
    rng = np.random.default_rng(rows)
    sizes = []
    for part_rows in rng.multinomial(rows, np.full(parts, 1 / parts)):
        sizes += [group] * (part_rows // group) + ([part_rows % group] if part_rows % group else [])
    plan = EpochPlan(sizes, lanes=192, global_batch_size=1024, seed=0, epoch=0)
    for world_size in range(1, 9):
        largest = np.max([plan.step_rows(r, world_size, 0, plan.steps) for r in range(world_size)], axis=0)
        assert largest.sum() <= 1.05 * rows / world_size


def test_an_epoch_without_rows_has_no_steps() -> None:
    plan = EpochPlan([], lanes=4, global_batch_size=10, seed=0, epoch=0)
    assert plan.steps == 0 and plan.rows == 0
    assert len(plan.reading_order(1, 2)) == 0
