"""The order of an epoch: exactly once, the same for any number of workers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from draws import drawn
from sparkdl.data.feed.epoch_plan import EpochPlan, row_permutation
from sparkdl.data.prepare.sizing import part_count, rows_per_row_group


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


@drawn(150)
@given(small_plans, st.data())
def test_every_step_is_its_slice_of_the_epoch_for_any_number_of_workers(plan: EpochPlan, data: st.DataObject) -> None:
    world_size = data.draw(st.integers(1, plan.lanes))
    epoch = written_out(plan)
    assert len(set(epoch)) == len(epoch) == plan.rows
    for step in range(plan.steps):
        fed = [row for rank in range(world_size) for row in rows_of_step(plan, rank, world_size, step)]
        assert sorted(fed) == sorted(epoch[step * plan.global_batch_size : (step + 1) * plan.global_batch_size])


@st.composite
def large_plans(draw: st.DrawFn) -> EpochPlan:
    """Up to 100,000 rows in up to 500 row groups, equal ones but for the last, or of any sizes."""
    rows, groups = draw(st.integers(1, 100_000)), draw(st.integers(1, 500))
    seed = draw(st.integers(0, 2**32))
    groups = min(groups, rows)
    if draw(st.booleans()):
        size = -(-rows // groups)
        sizes = np.array([size] * (rows // size) + [rows % size] * (rows % size > 0))
    else:
        inner = np.random.default_rng(seed).choice(rows - 1, groups - 1, replace=False) + 1 if groups > 1 else []
        sizes = np.diff(np.concatenate(([0], np.sort(inner), [rows]))).astype(int)
    lanes = draw(st.sampled_from([16, 64, 192]))
    return EpochPlan(sizes, lanes=lanes, global_batch_size=draw(st.integers(1, 5000)), seed=seed, epoch=seed % 7)


def positions_in_epoch(plan: EpochPlan) -> list[np.ndarray]:
    """By its definition, the position in the epoch of each row of each lane, in the lane's order."""
    # turn, lane: row i of a lane is given in round i, and the lanes of a round in lane order.
    turns = np.concatenate([np.arange(rows) for rows in plan.lane_rows])
    lanes = np.repeat(np.arange(plan.lanes), plan.lane_rows)
    positions = np.empty(plan.rows, dtype=np.int64)
    positions[np.lexsort((lanes, turns))] = np.arange(plan.rows)
    return np.split(positions, np.cumsum(plan.lane_rows)[:-1])


def check_steps(plan: EpochPlan, world_size: int, start: int, steps: int) -> None:
    """Every rank takes part in each of these steps, and together they give the step its slice of the epoch, once."""
    positions = positions_in_epoch(plan)
    borders = np.minimum(np.arange(start, start + steps + 1) * plan.global_batch_size, plan.rows)
    total, seen = np.zeros(steps, dtype=int), []
    for rank in range(world_size):
        shares = plan.shares(rank, world_size, start, start + steps)
        assert len(shares) == steps + 1
        total += np.diff(shares.sum(axis=1))
        for place, lane in enumerate(plan.owned_lanes(rank, world_size)):
            # A lane stands at a border where so many of its rows come before it in the epoch.
            assert (shares[:, place] == np.searchsorted(positions[lane], borders)).all()
            seen.append(lane)
    assert sorted(seen) == list(range(plan.lanes)) and (total == np.diff(borders)).all()


@drawn(1500)
@given(large_plans(), st.data())
def test_every_row_is_in_its_step_once_for_any_number_of_workers(plan: EpochPlan, data: st.DataObject) -> None:
    # Of a long epoch: its first steps, its last ones, or some between.
    steps = min(plan.steps, 40)
    start = data.draw(st.sampled_from([0, plan.steps - steps, (plan.steps - steps) // 2]))
    check_steps(plan, data.draw(st.integers(1, 16)), start, steps)


@pytest.mark.parametrize("rows", [1, 100_000])
@pytest.mark.parametrize("groups", [1, 500])
@pytest.mark.parametrize("batch", [1, 5000])
@pytest.mark.parametrize("world_size", [1, 16])
def test_the_smallest_and_the_largest_epochs_are_exact(rows: int, groups: int, batch: int, world_size: int) -> None:
    sizes = np.diff(np.linspace(0, rows, min(groups, rows) + 1).astype(int))
    plan = EpochPlan(sizes, lanes=192, global_batch_size=batch, seed=1, epoch=2)
    check_steps(plan, world_size, 0, min(plan.steps, 5000))


@drawn(200)
@given(large_plans())
def test_a_lane_gives_every_row_of_its_row_groups_once(plan: EpochPlan) -> None:
    runs = plan.runs(np.arange(plan.lanes), np.zeros(plan.lanes, dtype=np.int64), plan.lane_rows)
    assert sorted(runs.row_groups) == list(range(len(plan.row_group_rows)))
    assert not runs.starts.any() and (runs.stops == plan.row_group_rows[runs.row_groups]).all()
    group = int(runs.row_groups[len(runs.row_groups) // 2])
    assert (np.sort(plan.permute(group)) == np.arange(plan.row_group_rows[group])).all()


@drawn(150)
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


@drawn(150)
@given(small_plans, st.data())
def test_an_epoch_goes_on_at_any_step_with_another_number_of_workers(plan: EpochPlan, data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, plan.steps), label="stop")
    before, after = (data.draw(st.integers(1, plan.lanes), label="workers") for _ in range(2))
    fed: list[tuple[int, int]] = []
    for start, end, world_size in ((0, stop, before), (stop, plan.steps, after)):
        for step in range(start, end):
            fed += sorted(row for rank in range(world_size) for row in rows_of_step(plan, rank, world_size, step))
    epoch = written_out(plan)
    batch = plan.global_batch_size
    assert fed == [row for step in range(plan.steps) for row in sorted(epoch[step * batch : (step + 1) * batch])]


@drawn(600)
@given(small_plans, st.data())
def test_a_rank_needs_its_row_groups_in_the_order_it_reads_them(plan: EpochPlan, data: st.DataObject) -> None:
    world_size = data.draw(st.integers(1, plan.lanes))
    rank = data.draw(st.integers(0, world_size - 1))
    start = data.draw(st.integers(0, plan.steps))
    first_needed: dict[int, int] = {}
    for step in range(start, plan.steps):
        for group, _ in rows_of_step(plan, rank, world_size, step):
            first_needed.setdefault(group, step)
    # Within a step a rank may need several row groups; between steps the order is that of need.
    needed = [first_needed[int(group)] for group in plan.reading_order(rank, world_size, start)]
    assert needed == sorted(needed)


def test_another_epoch_and_another_seed_give_another_order() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        return written_out(EpochPlan([7] * 30, lanes=8, global_batch_size=10, seed=seed, epoch=epoch))

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert order(1, 2) == order(1, 2)


def test_no_two_epochs_read_the_row_groups_in_one_order() -> None:
    orders = [
        tuple(EpochPlan([5] * 64, lanes=16, global_batch_size=10, seed=3, epoch=epoch).reading_order(0, 1))
        for epoch in range(50)
    ]
    assert len(set(orders)) == 50


def test_validation_keeps_the_stored_order() -> None:
    plan = EpochPlan([3, 4, 2], lanes=1, global_batch_size=10, seed=None, epoch=5)
    assert written_out(plan) == [(group, row) for group, rows in enumerate([3, 4, 2]) for row in range(rows)]


def test_row_permutations_of_two_row_groups_differ() -> None:
    first, second = (row_permutation(50, seed=3, epoch=0, row_group=group) for group in (0, 1))
    assert sorted(first) == list(range(50)) and (first != second).any()


def prepared_row_groups(rows: int, record_bytes: int, seed: int) -> list[int]:
    """The row groups that prepare makes of so many rows, which a hash divides over the parts."""
    parts = part_count(rows, record_bytes)
    group = rows_per_row_group(rows, record_bytes, lanes=192, parts=parts)
    sizes = []
    for part_rows in np.random.default_rng(seed).multinomial(rows, np.full(parts, 1 / parts)):
        sizes += [group] * (part_rows // group) + ([part_rows % group] if part_rows % group else [])
    return sizes


# Below a thousand rows, one row more on one rank is already a few percent.
@drawn(300)
@given(
    st.integers(1000, 400_000),
    st.one_of(st.integers(4, 1000), st.integers(1000, 150_000)),
    st.integers(0, 2**32),
    st.sampled_from([256, 1024, 4096]),
)
def test_the_work_of_every_epoch_is_shared(rows: int, record_bytes: int, seed: int, batch: int) -> None:
    sizes = prepared_row_groups(rows, record_bytes, seed)
    plan = EpochPlan(sizes, lanes=192, global_batch_size=batch, seed=seed, epoch=seed % 5)
    given_ = plan.counts(np.minimum(np.arange(plan.steps + 1) * batch, rows))
    assert len(sizes) >= 64
    for world_size in range(1, 9):
        # (ranks, steps): what each rank gives to each step
        per_rank = [np.diff(given_[:, plan.owned_lanes(r, world_size)].sum(axis=1)) for r in range(world_size)]
        assert np.max(per_rank, axis=0).sum() <= 1.05 * rows / world_size


def test_an_epoch_without_rows_has_no_steps() -> None:
    plan = EpochPlan([], lanes=4, global_batch_size=10, seed=0, epoch=0)
    assert plan.steps == 0 and plan.rows == 0
    assert len(plan.reading_order(1, 2)) == 0
