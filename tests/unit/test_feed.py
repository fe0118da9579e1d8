"""The feed over real Parquet parts, through Petastorm's Reader: the plan's rows, on any number of ranks."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkdl import DatasetError
from sparkdl.data.dataset import Dataset, Part
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.feed import Block, Feed
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
                records = LAYOUT.pack({"feature:id": ids, "feature:x": np.stack([ids] * 3, axis=1), "label:y": ids % 5})
                writer.write_table(pa.table({RECORD_COLUMN: LAYOUT.to_arrow(records)}), row_group_size=rows)
                start += rows
        described.append(Part(file.name, "train", tuple(groups)))
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
            values[field.key] = array if field.shape else array[:, place]
    return values


def fed_ids(
    dataset: Dataset, world_size: int, batch: int, epochs: list[int], threads: int = 1
) -> list[list[np.ndarray]]:
    """Ids by step and rank; also checks that ghosts are single rows that count for nothing."""
    steps: list[list[np.ndarray]] = []
    for rank in range(world_size):
        feed = Feed(
            dataset,
            dataset.split("train"),
            rank=rank,
            world_size=world_size,
            global_batch_size=batch,
            seed=9,
            threads=threads,
        )
        step = 0
        for block in feed.blocks(epochs):
            for start, size, rows in zip(block.starts, block.sizes, block.rows, strict=True):
                assert size == max(rows, 1)
                fed = {key: values[start : start + size] for key, values in columns(block).items()}
                assert (fed["feature:x"] == fed["feature:id"][:, None]).all()
                assert (fed["label:y"] == fed["feature:id"] % 5).all()
                if rank == 0:
                    steps.append([])
                steps[step].append(fed["feature:id"][:rows].copy())
                step += 1
        assert step == len(steps), "every rank takes part in every step"
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


def test_threads_do_not_change_the_order(tmp_path) -> None:
    dataset = make_dataset(tmp_path, [[7] * 40, [7] * 25])
    one, four = (fed_ids(dataset, 2, 20, [3], threads=threads) for threads in (1, 4))
    assert all((a == b).all() for x, y in zip(one, four, strict=True) for a, b in zip(x, y, strict=True))


def test_ranks_share_full_steps_as_their_lanes_allow(tmp_path) -> None:
    dataset = make_dataset(tmp_path, [[12] * 16], lanes=8)
    for step in fed_ids(dataset, 3, 16, [0]):
        # 8 equal lanes over 3 ranks are 3, 3 and 2; a step of 16 takes 2 rows of each.
        assert [len(ids) for ids in step] == [6, 6, 4]


def test_a_block_is_split_into_steps_whatever_its_size(tmp_path, monkeypatch) -> None:
    dataset = make_dataset(tmp_path, [[9] * 50])
    whole = fed_ids(dataset, 2, 25, [0])
    monkeypatch.setattr("sparkdl.data.feed.BLOCK_BYTES", 1)  # a block for each step
    single = fed_ids(dataset, 2, 25, [0])
    assert all((a == b).all() for x, y in zip(whole, single, strict=True) for a, b in zip(x, y, strict=True))


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
        dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=10, seed=0, threads=3
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
