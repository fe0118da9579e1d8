"""A dataset of format 1, committed, reads as it did on the day it was made.

Made by `python tests/fixtures/make_dataset_v1.py`; what it must read as lies beside it in dataset-v1.expected.json.
"""

import json

import numpy as np
import pyarrow as pa
import pytest

import sparkdl
from paths import FIXTURES
from sparkdl import ReaderConfig
from sparkdl.data.feed.feed import Feed

FOLDER = FIXTURES / "dataset-v1"
EXPECTED = json.loads(FOLDER.with_name("dataset-v1.expected.json").read_text())


@pytest.mark.parametrize("split", EXPECTED)
def test_format_1_reads_in_spark(spark, split) -> None:
    found = sparkdl.read_prepared(spark, str(FOLDER), split)
    assert [plain(row) for row in found.collect()] == EXPECTED[split]


def plain(row) -> dict:
    """A row as JSON holds it."""
    return {
        name: value.hex() if isinstance(value, bytes | bytearray) else value for name, value in row.asDict().items()
    }


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("split", EXPECTED)
def test_format_1_is_fed_to_ranks(split, in_memory) -> None:
    dataset = sparkdl.open_dataset(str(FOLDER))
    feed = Feed(
        dataset,
        dataset.split(split),
        rank=0,
        world_size=1,
        global_batch_size=1000,
        seed=None,
        reader=ReaderConfig(in_memory=in_memory),
    )
    (block,) = feed.blocks([0])
    plan = feed.plan(0)
    # One step holds all rows, lane after lane, those of a row group in the order in which they are stored.
    runs = plan.runs(np.arange(plan.lanes), np.zeros(plan.lanes, int), plan.lane_rows)
    begins = np.cumsum(plan.row_group_rows) - plan.row_group_rows
    rows = np.concatenate([np.arange(begins[g], begins[g] + plan.row_group_rows[g]) for g in runs.row_groups])
    assert sorted(rows) == list(range(len(EXPECTED[split])))
    for group, array in zip(dataset.layout.groups, block.arrays, strict=True):
        for place, field in enumerate(group.fields):
            expected = [EXPECTED[split][row][field.name] for row in rows]
            if field.stored == "bytes":
                encoded = pa.array([None if v is None else bytes.fromhex(v) for v in expected], pa.binary())
                expected = dataset.encoder_of(field).encode(encoded).tolist()
            assert (array if len(group.fields) == 1 else array[:, place]).tolist() == expected


def test_format_1_keeps_what_it_knew() -> None:
    dataset = sparkdl.open_dataset(str(FOLDER))
    assert json.loads((FOLDER / "dataset.json").read_text())["format_version"] == 1
    assert dataset.splits == ("train", "val", "test") and dataset.classes == ("high", "low")
    assert dataset.weight == "weight" and dataset.keep == ("id", "job") and dataset.lanes == 4
    assert sum(dataset.split(name).rows for name in dataset.splits) == 40
    assert all((FOLDER / part.file).stat().st_size == part.bytes for part in dataset.parts)
