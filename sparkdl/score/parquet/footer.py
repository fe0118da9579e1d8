"""Read the footers of Parquet files.

Driver, within `score_parquet`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from sparkdl import storage
from sparkdl.errors import ConfigError
from sparkdl.score.parquet.spark_types import SPARK_ROW

__all__ = ["Footer", "read_footer", "thrift_of"]

# A file ends with its footer, the footer's length and four letters.
_END_BYTES = 8


@dataclass(frozen=True, slots=True)
class Footer:
    """Hold what the footer of a file says.

    Attributes:
        schema: the schema as Arrow reads it.
        row_groups: the rows of each row group.
        total_bytes: the bytes of all row groups, uncompressed.
        metadata: the footer's keys and values.
        int96: the columns that hold timestamps in 96 bits.
        kind: a digest, equal for files whose schemas are the same to Parquet, to Arrow and to Spark.
        by_parquet_mr: whether Spark, or another program with its library, wrote it.
    """

    schema: pa.Schema
    row_groups: tuple[int, ...]
    total_bytes: int
    metadata: Mapping[bytes, bytes]
    int96: frozenset[str]
    kind: bytes
    by_parquet_mr: bool


def read_footer(path: str) -> Footer:
    """Read the footer of a file. Raises ConfigError for a file that cannot be read."""
    fs, inner = storage.filesystem(path)
    try:
        with fs.open(inner, "rb") as handle:
            file = pq.ParquetFile(handle, coerce_int96_timestamp_unit="us")
            # The path of each leaf begins with the column's name, which may have dots.
            footer, schema, paths = file.metadata, file.schema_arrow, file.reader.column_paths
            # The first line holds the address of the object in memory.
            stored = str(file.schema).partition("\n")[2]
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error
    leaves = [footer.schema.column(index) for index in range(footer.num_columns)]
    int96 = frozenset(path[0] for path, leaf in zip(paths, leaves, strict=True) if leaf.physical_type == "INT96")
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    schema, metadata = schema.remove_metadata(), footer.metadata or {}
    kind = hashlib.sha256(f"{stored}\n{schema}\n".encode() + metadata.get(SPARK_ROW, b""))
    return Footer(
        schema,
        tuple(group.num_rows for group in groups),
        sum(group.total_byte_size for group in groups),
        metadata,
        int96,
        kind.digest(),
        footer.created_by.startswith("parquet-mr"),
    )


def thrift_of(path: str) -> bytes:
    """Return the bytes of a file's footer, in Thrift, for other readers."""
    fs, inner = storage.filesystem(path)
    with fs.open(inner, "rb") as handle:
        handle.seek(-_END_BYTES, 2)
        size = int.from_bytes(handle.read(4), "little")
        handle.seek(-_END_BYTES - size, 2)
        return bytes(handle.read(size))
