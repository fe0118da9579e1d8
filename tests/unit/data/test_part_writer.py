"""A part is complete, or absent, and what it cannot hold is named."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkdl import DatasetError, SchemaError
from sparkdl.data.part_writer import PartWriter


@pytest.fixture
def lease(tmp_path):
    (tmp_path / "lease").touch()
    return tmp_path / "lease"


def test_columns_that_parquet_cannot_store_are_named_and_nothing_is_left(tmp_path, lease) -> None:
    schema = pa.schema([("id", pa.int64()), ("gap", pa.month_day_nano_interval())])
    with pytest.raises(SchemaError, match=r"keep: columns \['gap'\] cannot be stored in Parquet: .*; leave them out"):
        with PartWriter(str(tmp_path / "part.parquet"), schema, lease=str(lease)):
            pass
    assert not (tmp_path / "part.parquet").exists()


def test_a_part_whose_driver_has_given_up_is_deleted(tmp_path, lease) -> None:
    table = pa.table({"id": [1, 2, 3]})
    file = tmp_path / "part.parquet"
    with PartWriter(str(file), table.schema, lease=str(lease), group_rows=2) as part:
        part.add(table)
    assert part.row_groups == [2, 1] and part.bytes == file.stat().st_size and pq.read_table(file) == table
    with pytest.raises(DatasetError, match="the job that this task belongs to has ended"):
        with PartWriter(str(file), table.schema, lease=str(lease)) as part:
            part.add(table)
            lease.unlink()
    assert not file.exists()
