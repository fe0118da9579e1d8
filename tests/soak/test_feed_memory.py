"""A rank that feeds ten times its memory, for twenty epochs: what it takes, and that it takes no more over time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BUDGET = 450 << 20
EPOCHS = 20

RANK = """
import gc, json, pickle, sys
import psutil, tensorflow as tf
from sparkdl import ReaderConfig
from sparkdl.data.feed.feed import Feed
from sparkdl.data.feed.tensors import step_dataset

dataset, budget, epochs = pickle.load(open(sys.argv[1], "rb")), int(sys.argv[2]), int(sys.argv[3])
process = psutil.Process()
before = process.memory_info().rss
feed = Feed(
    dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=1024, seed=0, cores=2,
    reader=ReaderConfig(in_memory=False, memory=budget),
)
steps = feed.plan(0).steps
after = []
for step, _ in enumerate(step_dataset(feed, dataset.layout, range(epochs)), start=1):
    if step % (steps // 4) == 0:
        after.append((step / steps, process.memory_info().rss))
print(json.dumps({"before": before, "after": after, "threads": feed.memory.threads, "slots": feed.memory.slots}))
"""


def write_dataset(folder: Path, rows: int) -> Path:
    """`rows` vectors of 128 floats and a label, in row groups as prepare makes them; returns the pickled handle."""
    import pickle

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sparkdl.data.dataset import Dataset, Part
    from sparkdl.data.layout import RECORD_COLUMN, Field, RecordLayout
    from sparkdl.data.prepare.sizing import part_count, rows_per_row_group

    layout = RecordLayout((Field("feature", "x", "float32", (128,)), Field("label", "y", "int32", ())))
    width = layout.dtype.itemsize
    parts = part_count(rows, width)
    group = rows_per_row_group(rows, width, lanes=192, parts=parts)
    described, records = [], np.zeros(group, layout.dtype)
    for number in range(parts):
        left, groups = rows // parts + (number < rows % parts), []
        name = f"train-{number}.parquet"
        schema = pa.schema([(RECORD_COLUMN, pa.binary(width))])
        with pq.ParquetWriter(folder / name, schema, compression="none", use_dictionary=False) as writer:
            while left:
                groups.append(min(group, left))
                left -= groups[-1]
                writer.write_table(pa.table({RECORD_COLUMN: layout.to_arrow(records[: groups[-1]])}))
        described.append(Part(name, "train", tuple(groups), (folder / name).stat().st_size))
    dataset = Dataset(
        path=str(folder), encoders=(), label_encoders=(), weight=None, keep=(), raw_types={}, rule=None, seed=0,
        lanes=192, layout=layout, parts=tuple(described), fingerprint="soak",
    )  # fmt: skip
    handle = folder / "dataset.pickle"
    handle.write_bytes(pickle.dumps(dataset))
    return handle


@pytest.mark.timeout(1900)
def test_memory_stays_within_the_budget_and_does_not_grow(tmp_path) -> None:
    handle = write_dataset(tmp_path, 10 * BUDGET // 516)
    ran = subprocess.run(
        [sys.executable, "-c", RANK, str(handle), str(BUDGET), str(EPOCHS)],
        capture_output=True, text=True, check=True, timeout=1800,
    )  # fmt: skip
    seen = json.loads(ran.stdout.splitlines()[-1])
    peak = max(rss for _, rss in seen["after"]) - seen["before"]
    second = max(rss for epoch, rss in seen["after"] if 1 < epoch <= 2)
    last = max(rss for epoch, rss in seen["after"] if epoch > EPOCHS - 1)
    print(
        f"{seen['slots']} slots; peak {peak >> 20} MiB above {seen['before'] >> 20}; last / second {last / second:.4f}"
    )
    assert peak <= BUDGET + (500 << 20)
    assert last < 1.02 * second
