"""How many rows a second each encoder makes arrays of, on one core, in Arrow batches as Spark sends them.

    .venv/bin/python benchmarks/encoders.py [--rows 1000000] [--repeats 5]

Prints a table of rows/s, the best of the repeats. Text has a tenth of the rows and images a hundredth.
"""

import argparse
import io
import time

import numpy as np
import pyarrow as pa
from PIL import Image as Pillow

from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.image import ImageEncoder
from sparkdl.data.features.moments import Moments
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.features.text import TextEncoder
from sparkdl.features import Numeric, Tensor

# spark.sql.execution.arrow.maxRecordsPerBatch
BATCH = 10_000

VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)


def vectors(values, *, dense):
    """ML vectors as Spark sends them, of these values: shape (rows, size)."""
    rows, size = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * size)
    indices = pa.ListArray.from_arrays(offsets, pa.array(np.tile(np.arange(size, dtype=np.int32), rows)))
    kinds, sizes = pa.array(np.full(rows, dense, np.int8)), pa.array(np.full(rows, size, np.int32))
    elements = pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))
    return pa.StructArray.from_arrays([kinds, sizes, indices, elements], fields=list(VECTOR))


def png(pixels):
    encoded = io.BytesIO()
    Pillow.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def contenders(rows):
    """(what, encoder, column) one after the other, so that one column is in memory at a time."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=rows)
    moments = Moments.of(numbers, ())
    yield "Numeric", NumericEncoder.fit(Numeric("x"), moments), pa.array(numbers)
    holes = pa.array(numbers, mask=rng.random(rows) < 0.05)
    yield "Numeric, mean for 5 % nulls", NumericEncoder.fit(Numeric("x", fill="mean"), moments), holes
    yield "Numeric, indicator", NumericEncoder.fit(Numeric("x", fill="indicator"), moments), holes
    for what, values in (
        ("strings", np.array([f"value{i}" for i in range(1100)])),
        ("whole numbers", np.arange(1100)),
    ):
        encoder = CategoricalEncoder("x", tuple(values[:1000].tolist()), False)
        yield f"Categorical, 1,000 {what}", encoder, pa.array(rng.choice(values, rows))
    for what, dense in (("dense", True), ("sparse", False)):
        column = vectors(rng.normal(size=(rows, 10)), dense=dense)
        yield f"Tensor, {what} vector of 10", TensorEncoder.fit(Tensor("x"), column[:1]), column
    times = pa.array(rng.integers(0, 2 * 10**15, rows)).cast(pa.timestamp("us", "UTC"))
    yield "Tensor, timestamp", TensorEncoder.fit(Tensor("x"), times[:1]), times
    words = np.array([f"word{i}" for i in range(30_000)])
    texts = pa.array([" ".join(line) + "." for line in rng.choice(words, (rows // 10, 20))])
    yield "Text, 20 words", TextEncoder("x", tuple(words[:20_000].tolist()), 32, None), texts
    digits = (rng.random((1000, 28, 28)) ** 4 * 256).astype(np.uint8)
    images = pa.array([png(digits[i % len(digits)]) for i in range(rows // 100)])
    yield "Image, PNG of 28 × 28", ImageEncoder("x", (28, 28, 1), "pixels", None), images


def seconds(encoder, column):
    started = time.perf_counter()
    for start in range(0, len(column), BATCH):
        encoder.encode(column.slice(start, BATCH))
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for what, encoder, column in contenders(options.rows):
        best = min(seconds(encoder, column) for _ in range(options.repeats))
        print(f"{what:32s} {len(column) / best:15,.0f} rows/s", flush=True)


if __name__ == "__main__":
    main()
