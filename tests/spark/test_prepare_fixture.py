"""A dataset of format 1, committed, reads as it did on the day it was made.

Made by `python tests/fixtures/make_dataset_v1.py`; what it must read as lies beside it in dataset-v1.expected.json.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from sparkdl.data.reader import RowGroupReader

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "dataset-v1"
EXPECTED = json.loads(FOLDER.with_name("dataset-v1.expected.json").read_text())


@pytest.mark.parametrize("split", EXPECTED)
def test_format_1_reads_in_spark(spark, split) -> None:
    found = sparkdl.read_prepared(spark, str(FOLDER), split)
    assert [row.asDict() for row in found.collect()] == EXPECTED[split]


@pytest.mark.parametrize("split", EXPECTED)
def test_format_1_is_fed_to_ranks(split) -> None:
    dataset = sparkdl.open_dataset(str(FOLDER))
    parts = dataset.split(split)
    with RowGroupReader(dataset, parts, range(len(parts.row_group_rows)), threads=2) as reader:
        records = np.concatenate([rows for _, rows in reader])
    for field in dataset.layout.fields:
        name = field.name if field.role != "label" or field.name not in dataset.features else f"{field.name}_label"
        assert records[field.key].tolist() == [row[name] for row in EXPECTED[split]]


def test_format_1_keeps_what_it_knew() -> None:
    dataset = sparkdl.open_dataset(str(FOLDER))
    assert json.loads((FOLDER / "dataset.json").read_text())["format_version"] == 1
    assert dataset.splits == ("train", "val", "test") and dataset.classes == ("high", "low")
    assert dataset.weight == "weight" and dataset.keep == ("id", "job") and dataset.lanes == 4
    assert sum(dataset.split(name).rows for name in dataset.splits) == 40
    assert all((FOLDER / part.file).stat().st_size == part.bytes for part in dataset.parts)
