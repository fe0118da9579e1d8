"""The feed over real Parquet parts, through Petastorm's Reader: the plan's rows, on any number of ranks."""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from draws import drawn
from sparkdl import ConfigError, DatasetError, ReaderConfig
from sparkdl.data.dataset import Dataset, Part
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.feed.feed import Block, Feed
from sparkdl.data.feed.local_cache import LocalCache
from sparkdl.data.layout import RECORD_COLUMN, Field, RecordLayout

LAYOUT = RecordLayout(
    (Field("feature", "id", "int64", ()), Field("feature", "x", "float32", (3,)), Field("label", "y", "int32", ()))
)


def make_dataset(folder: Path, parts: list[list[int]], lanes: int = 8) -> Dataset:
    """A dataset whose row ids count up; `parts` gives the rows of each row group of each part."""
    encoder = TensorEncoder("id", (), (), np.dtype("int64"))
    start, described = 0, []
    for number, groups in enumerate(parts):
        file = folder / f"part-{number}.parquet"
        with pq.ParquetWriter(
            file, pa.schema([(RECORD_COLUMN, pa.binary(LAYOUT.dtype.itemsize))]), compression="none"
        ) as writer:
            for rows in groups:
                ids = np.arange(start, start + rows)
                values = {"feature:id": ids, "feature:x": np.stack([ids] * 3, axis=1), "label:y": ids % 5}
                records = LAYOUT.pack(values, rows=rows)
                writer.write_table(pa.table({RECORD_COLUMN: LAYOUT.to_arrow(records)}), row_group_size=rows)
                start += rows
        described.append(Part(file.name, "train", tuple(groups), file.stat().st_size))
    return Dataset(
        path=str(folder),
        encoders=(encoder,),
        label_encoders=(),
        weight=None,
        keep=(),
        raw_types={},
        rule=None,
        seed=0,
        lanes=lanes,
        layout=LAYOUT,
        parts=tuple(described),
        fingerprint="test",
    )


def columns(block: Block, layout: RecordLayout = LAYOUT) -> dict[str, np.ndarray]:
    """The block's values by field."""
    values = {}
    for group, array in zip(layout.groups, block.arrays, strict=True):
        for place, field in enumerate(group.fields):
            values[field.key] = array[:, place] if len(group.fields) > 1 else array
    return values


def fed_ids(
    dataset: Dataset,
    world_size: int,
    batch: int,
    epochs: list[int],
    reader: ReaderConfig | None = None,
    start_step: int = 0,
) -> list[list[np.ndarray]]:
    """Ids by step and rank; also checks that padding rows are single rows that count for nothing."""
    steps: list[list[np.ndarray]] = []
    for rank in range(world_size):
        feed = Feed(
            dataset,
            dataset.split("train"),
            rank=rank,
            world_size=world_size,
            global_batch_size=batch,
            seed=9,
            reader=reader,
        )
        step, totals = 0, []
        for block in feed.blocks(epochs, start_step=start_step):
            assert block.first_step == epochs[0] * feed.plan(0).steps + start_step + step
            for start, stop, rows in zip(block.starts, block.stops, block.rows, strict=True):
                assert stop - start == max(rows, 1)
                fed = {key: values[start:stop] for key, values in columns(block).items()}
                assert (fed["feature:x"] == fed["feature:id"][:, None]).all()
                assert (fed["label:y"] == fed["feature:id"] % 5).all()
                if rank == 0:
                    steps.append([])
                steps[step].append(fed["feature:id"][:rows].copy())
                step += 1
            totals.extend(block.global_rows.tolist())
        assert step == len(steps), "every rank takes part in every step"
    assert [sum(len(ids) for ids in step) for step in steps] == totals
    return steps


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("parts", [[[10] * 20, [10] * 13 + [4]], [[1]], [[5, 5, 2]], [[300] * 3]])
def test_every_row_comes_once_an_epoch_and_the_steps_are_those_of_one_rank(tmp_path, parts, world_size) -> None:
    dataset = make_dataset(tmp_path, parts)
    rows = dataset.split("train").rows
    alone = fed_ids(dataset, 1, 32, [0, 1])
    together = fed_ids(dataset, world_size, 32, [0, 1])
    for one, many in zip(alone, together, strict=True):
        assert sorted(one[0]) == sorted(np.concatenate(many))
    epoch_steps = len(together) // 2
    for epoch in (together[:epoch_steps], together[epoch_steps:]):
        assert sorted(np.concatenate([ids for step in epoch for ids in step])) == list(range(rows))


@pytest.mark.parametrize("start_step", [0, 2])
def test_a_row_has_the_same_seed_wherever_it_is_trained_on_and_another_in_each_epoch(tmp_path, start_step) -> None:
    dataset = make_dataset(tmp_path, [[5] * 7, [5] * 3 + [2]])
    split, found = dataset.split("train"), []
    for world_size, batch, begin in ((1, 8, 0), (3, 8, start_step), (2, 3, 0)):
        seeds = {}
        for rank in range(world_size):
            feed = Feed(dataset, split, rank=rank, world_size=world_size, global_batch_size=batch, seed=9)
            for block in feed.blocks([0, 1], start_step=begin, seeds=True):
                ids = columns(block)["feature:id"]
                assert len(ids) == len(block.seeds) and block.seeds.dtype == np.int64
                epoch = block.first_step // feed.plan(0).steps
                for start, rows in zip(block.starts, block.rows, strict=True):
                    of_step = slice(start, start + rows)
                    pairs = zip(ids[of_step].tolist(), block.seeds[of_step].tolist(), strict=True)
                    seeds |= {(epoch, row): tuple(seed) for row, seed in pairs}
        found.append(seeds)
    assert len(found[0]) == len(set(found[0].values())) == 2 * split.rows
    assert found[2] == found[0] and len(found[1]) == 2 * split.rows - 8 * start_step
    assert found[1].items() <= found[0].items()


def test_threads_do_not_change_the_order(tmp_path) -> None:
    dataset = make_dataset(tmp_path, [[7] * 40, [7] * 25])
    one, four = (fed_ids(dataset, 2, 20, [3], ReaderConfig(threads=threads)) for threads in (1, 4))
    assert_same(one, four)


def assert_same(one: list[list[np.ndarray]], other: list[list[np.ndarray]]) -> None:
    assert all((a == b).all() for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


# Bytes of a row: its record (24) and its place in the order (8).
ROW_BYTES = 32


@pytest.mark.parametrize("slots", [17, 20, 40])
def test_memory_does_not_change_the_order(tmp_path, monkeypatch, slots) -> None:
    monkeypatch.setattr("sparkdl.data.feed.budget.BLOCK_BYTES", 1 << 10)
    dataset = make_dataset(tmp_path, [[7] * 40, [7] * 25 + [3], [5]])
    whole = fed_ids(dataset, 2, 20, [3, 4], ReaderConfig(in_memory=True))
    memory = ReaderConfig(in_memory=False, memory=4 * (1 << 10) + slots * 7 * ROW_BYTES)
    assert_same(whole, fed_ids(dataset, 2, 20, [3, 4], memory))


def test_a_step_of_many_small_row_groups_gets_the_room_it_needs(tmp_path) -> None:
    # The least memory is reckoned from full row groups; a step may happen to take many shorter ones.
    dataset = make_dataset(tmp_path, [[40], *[[1]] * 150], lanes=4)
    whole = fed_ids(dataset, 1, 30, [0, 1], ReaderConfig(in_memory=True))
    feed = Feed(
        dataset,
        dataset.split("train"),
        rank=0,
        world_size=1,
        global_batch_size=30,
        seed=9,
        reader=ReaderConfig(in_memory=False, memory=100_000),
    )
    slots = feed.memory.slots
    small = fed_ids(dataset, 1, 30, [0, 1], ReaderConfig(in_memory=False, memory=100_000))
    assert slots is not None and slots < 140
    assert_same(whole, small)


def test_a_split_that_fits_is_read_once_and_one_that_does_not_every_epoch(tmp_path, monkeypatch) -> None:
    from sparkdl.data.feed.row_group_worker import RowGroupWorker

    read = []
    process = RowGroupWorker.process
    monkeypatch.setattr(
        RowGroupWorker,
        "process",
        lambda self, number, *place: (read.append(number), process(self, number, *place))[1],
    )
    dataset = make_dataset(tmp_path, [[7] * 40])
    for in_memory, times in ((True, 1), ("auto", 1), (False, 3)):
        read.clear()
        fed_ids(dataset, 1, 20, [0, 1, 2], ReaderConfig(in_memory=in_memory))
        assert sorted(read) == sorted(list(range(40)) * times)
    read.clear()
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=20, seed=None)
    for _ in range(3):  # validation after every epoch
        assert sum(int(block.rows.sum()) for block in feed.blocks([0])) == 280
    assert sorted(read) == list(range(40))


def test_a_kept_split_is_not_looked_for_in_all_epochs_to_come(tmp_path, monkeypatch) -> None:
    dataset = make_dataset(tmp_path, [[7, 7], [7]])
    plan, epochs = Feed.plan, []
    monkeypatch.setattr(Feed, "plan", lambda feed, epoch: epochs.append(epoch) or plan(feed, epoch))
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=5, seed=1)
    with contextlib.closing(feed.blocks(range(1000))) as blocks:
        next(blocks)
    assert max(epochs) < 10


def test_too_little_memory_is_refused_with_what_is_needed(tmp_path) -> None:
    dataset = make_dataset(tmp_path, [[7000] * 40])
    with pytest.raises(ConfigError, match=r"reader.memory=1 MiB is too little for split 'train'.* need \d+ MiB"):
        fed_ids(dataset, 1, 20, [0], ReaderConfig(memory=1 << 20))
    with pytest.raises(ConfigError, match=r"in_memory=True, but split 'train' needs \d+ MiB in each rank"):
        fed_ids(dataset, 1, 20, [0], ReaderConfig(memory=1 << 20, in_memory=True))


@drawn(60)
@given(
    parts=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=4),
    lanes=st.integers(1, 8),
    world_size=st.integers(1, 8),
    batch=st.integers(1, 60),
    start=st.integers(0, 5),
    block_bytes=st.sampled_from([1, 500, 8 << 20]),
)
def test_any_row_groups_are_fed_as_the_plan_says(parts, lanes, world_size, batch, start, block_bytes) -> None:
    world_size = min(world_size, lanes)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparkdl.data.feed.budget.BLOCK_BYTES", block_bytes)
        patch.setattr("sparkdl.data.feed.budget.DEFAULT_MEMORY", 1)
        dataset = make_dataset(Path(folder), parts, lanes)
        split = dataset.split("train")
        plan = Feed(dataset, split, rank=0, world_size=1, global_batch_size=batch, seed=9).plan(4)
        start = min(start, plan.steps - 1)
        begins = np.cumsum(plan.row_group_rows) - plan.row_group_rows
        together = fed_ids(dataset, world_size, batch, [4], ReaderConfig(in_memory=False), start)
    assert len(together) == plan.steps - start
    for step, by_rank in enumerate(together, start=start):
        for rank, ids in enumerate(by_rank):
            borders = plan.shares(rank, world_size, step, step + 1)
            runs = plan.runs(plan.owned_lanes(rank, world_size), *borders)
            planned = [
                begins[group] + plan.permute(group)[first:last]
                for group, first, last in zip(runs.row_groups.tolist(), runs.starts, runs.stops, strict=True)
            ]
            assert ids.tolist() == np.concatenate([*planned, np.empty(0, int)]).tolist()


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_feed_may_begin_at_any_step(tmp_path, monkeypatch, world_size, in_memory) -> None:
    monkeypatch.setattr("sparkdl.data.feed.budget.BLOCK_BYTES", 1 << 11)
    dataset = make_dataset(tmp_path, [[9] * 30, [9] * 17 + [4]])
    reader = ReaderConfig(in_memory=in_memory)
    whole = fed_ids(dataset, world_size, 20, [5, 6], reader)
    for start in (1, 7, len(whole) // 2 - 1):
        assert_same(whole[start:], fed_ids(dataset, world_size, 20, [5, 6], reader, start_step=start))


def test_what_is_cached_is_read_from_its_source_once(tmp_path) -> None:
    dataset = make_dataset(tmp_path, [[7] * 40])
    feed = Feed(
        dataset,
        dataset.split("train"),
        rank=0,
        world_size=1,
        global_batch_size=20,
        seed=0,
        reader=ReaderConfig(in_memory=False, cache=True),
    )
    first = [columns(block)["feature:id"].copy() for block in feed.blocks([0])]
    for part in tmp_path.glob("*.parquet"):
        part.write_bytes(part.read_bytes()[:4] + b"damaged" + part.read_bytes()[11:])
    again = [columns(block)["feature:id"].copy() for block in feed.blocks([0])]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_a_full_disk_ends_the_caching_and_nothing_else(monkeypatch, caplog) -> None:
    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    cache = LocalCache()
    cache.put(1, memoryview(b"one"))
    monkeypatch.setattr(os, "pwrite", no_space)
    cache.put(2, memoryview(b"two"))
    cache.put(3, memoryview(b"three"))
    assert (cache.get(1), cache.get(2), cache.get(3)) == (b"one", None, None)
    assert [record.message for record in caplog.records if "no more is cached" in record.message] == [
        "no more is cached on the local disk ([Errno 28] No space left on device); the rest is read from its source "
        "each epoch"
    ]
    cache.close()


def test_ranks_share_full_steps_as_their_lanes_allow(tmp_path) -> None:
    dataset = make_dataset(tmp_path, [[12] * 16], lanes=8)
    for step in fed_ids(dataset, 3, 16, [0]):
        # 8 equal lanes over 3 ranks are 3, 3 and 2; a step of 16 takes 2 rows of each.
        assert [len(ids) for ids in step] == [6, 6, 4]


def test_a_block_is_split_into_steps_whatever_its_size(tmp_path, monkeypatch) -> None:
    dataset = make_dataset(tmp_path, [[9] * 50])
    whole = fed_ids(dataset, 2, 25, [0])
    monkeypatch.setattr("sparkdl.data.feed.budget.BLOCK_BYTES", 1)  # a block for each step
    single = fed_ids(dataset, 2, 25, [0])
    assert_same(whole, single)


def test_a_missing_part_is_an_error_that_names_it(tmp_path) -> None:
    dataset = make_dataset(tmp_path, [[5] * 4, [5] * 4])
    os.remove(tmp_path / "part-1.parquet")
    with pytest.raises(DatasetError, match=r"part-1.parquet.*cannot be read"):
        fed_ids(dataset, 1, 10, [0])
    os.remove(tmp_path / "part-0.parquet")
    with pytest.raises(DatasetError, match=r"part-0.parquet cannot be opened"):
        fed_ids(dataset, 1, 10, [0])


def test_a_part_that_is_not_the_manifests_is_an_error(tmp_path) -> None:
    dataset = make_dataset(tmp_path, [[5] * 4])
    (tmp_path / "other").mkdir()
    make_dataset(tmp_path / "other", [[4] * 5])
    os.replace(tmp_path / "other" / "part-0.parquet", tmp_path / "part-0.parquet")
    with pytest.raises(DatasetError, match="has 4 rows, the manifest says 5"):
        fed_ids(dataset, 1, 10, [0])


def test_threads_and_files_are_closed_when_the_feed_is_left_early(tmp_path) -> None:
    import threading

    dataset = make_dataset(tmp_path, [[5] * 200])
    blocks = Feed(
        dataset,
        dataset.split("train"),
        rank=0,
        world_size=1,
        global_batch_size=10,
        seed=0,
        reader=ReaderConfig(threads=3),
    ).blocks([0] * 50)
    next(blocks)
    blocks.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("sparkdl-reader")]


def test_a_buffer_is_used_again_only_when_nobody_holds_it(tmp_path) -> None:
    dataset = make_dataset(tmp_path, [[50] * 40])
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=100, seed=0)
    held = list(feed.blocks([0, 1, 2]))
    ids = np.concatenate([columns(block)["feature:id"] for block in held])
    assert np.bincount(ids).tolist() == [3] * 2000
    addresses = set()
    for block in feed.blocks([0] * 30):
        addresses.add(block.arrays[0].ctypes.data)
        assert all(array.ctypes.data % 64 == 0 for array in block.arrays)
        del block
    assert len(addresses) <= 3
