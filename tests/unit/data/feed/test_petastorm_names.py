"""Petastorm is imported beside any pyarrow and numpy, and leaves them as they are."""

import subprocess
import sys

import pytest

from sparkdl.data.feed.petastorm_names import Parts

PROGRAM = """
import sys
import numpy, pyarrow, pyarrow.lib, pyarrow.parquet

def state():
    modules = (numpy, pyarrow, pyarrow.lib, pyarrow.parquet)
    names = [sorted(vars(module)) for module in modules]
    loaded = sorted(name for name in sys.modules if name.split(".")[0] == "pyarrow")
    return [names, loaded, [id(sys.modules[module.__name__]) for module in modules], hasattr(numpy, "string_")]

FIRST
before = state()
import sparkdl.data.feed.reader
after = state()
assert before == after, [set(b) ^ set(a) for b, a in zip(before[0] + before[1:2], after[0] + after[1:2])]
import petastorm.reader
assert state() == after
print("same")
"""


@pytest.mark.parametrize("first", ["", "import pyarrow.fs, pyarrow.dataset, fsspec"])
def test_pyarrow_and_numpy_are_what_they_were(first) -> None:
    # What Petastorm's own imports load of pyarrow is loaded before.
    loaded = (
        "import pyarrow.compute, pyarrow.fs, pyarrow.dataset, fsspec, pandas, sparkdl.data.dataset, sparkdl.storage"
    )
    program = PROGRAM.replace("FIRST", f"{first}\n{loaded}")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "same\n" and done.stderr == "", done.stderr


def test_petastorms_own_datasets_are_pyarrows(tmp_path) -> None:
    import fsspec
    import petastorm.reader
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = str(tmp_path / "part.parquet")
    pq.write_table(pa.table({"x": [1, 2]}), path, row_group_size=1)
    assert type(petastorm.reader.pq.ParquetDataset(path)) is type(pq.ParquetDataset(path))
    files = fsspec.filesystem("file")
    ours = petastorm.reader.pq.ParquetDataset(Parts([path]), filesystem=files, validate_schema=False)
    assert [piece.get_metadata().num_row_groups for piece in ours.pieces] == [2]
    assert petastorm.reader.pq.read_metadata is pq.read_metadata
