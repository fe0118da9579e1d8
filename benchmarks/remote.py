"""How fast a rank reads an epoch from an object store, beside raw ranged reads of the same server in the same run.

    .venv/bin/python benchmarks/remote.py [--mib 196] [--repeats 3] [--latency 0 30 100] [--json FILE]

The server is a stand-in for S3 of a few dozen lines on loopback, in a process of its own, which answers listings, heads
and ranged gets of local files after a latency, and counts requests and bytes. Each first epoch reads the split from the
server (its copy on the local disk is new); the limit beside it is ranged gets of 1 MiB, 16 at a time, over the same
files by the same client (s3fs). Prints MiB/s, their ratio, and the requests and bytes of an epoch over those of its row
groups.
"""

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

MIB = 1 << 20
AT_ONCE = 16
ROW_FLOATS = 512


def serve(root, latency, requests, moved, port):
    """Serve the files below `root` as bucket "b" by the part of S3's protocol that reading needs."""
    root = Path(root)

    class Store(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = MIB

        def answer(self, status, body=b"", length=None, **headers):
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)
            with requests.get_lock(), moved.get_lock():
                requests.value += 1
                moved.value += len(body)

        def do_GET(self):
            time.sleep(latency.value)
            url = urlsplit(self.path)
            key = unquote(url.path).removeprefix("/b").lstrip("/")
            if not key:
                return self.listing(parse_qs(url.query).get("prefix", [""])[0])
            if not (root / key).is_file():
                return self.answer(404)
            size = (root / key).stat().st_size
            first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
            first, last = int(first), min(int(last or size - 1), size - 1)
            with open(root / key, "rb") as file:
                body = os.pread(file.fileno(), last - first + 1, first)
            return self.answer(206, body, Content_Range=f"bytes {first}-{last}/{size}", ETag=f'"{size}"')

        def do_HEAD(self):
            time.sleep(latency.value)
            file = root / unquote(urlsplit(self.path).path).removeprefix("/b").lstrip("/")
            if not file.is_file():
                return self.answer(404)
            modified = {"Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            return self.answer(200, length=file.stat().st_size, ETag=f'"{file.stat().st_size}"', **modified)

        def listing(self, prefix):
            files = [
                file for file in root.rglob("*") if file.is_file() and str(file.relative_to(root)).startswith(prefix)
            ]
            entries = "".join(
                f"<Contents><Key>{escape(str(file.relative_to(root)))}</Key><Size>{file.stat().st_size}</Size>"
                f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
                for file in files
            )
            space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
            body = f"<ListBucketResult {space}><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
            return self.answer(200, body.encode(), Content_Type="application/xml")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    server.daemon_threads = True
    port.value = server.server_address[1]
    server.serve_forever()


def write(folder, mib):
    """Prepare a dataset of about so many MiB in row groups of half a MiB and more."""
    from pyspark.sql import SparkSession

    import sparkdl
    from sparkdl.features import Tensor

    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    rows = spark.range(mib * MIB // (ROW_FLOATS * 4)).selectExpr(
        f"transform(sequence(1, {ROW_FLOATS}), i -> float(rand(7) * i)) AS x", "id"
    )
    rows.write.parquet(f"{folder}/plain")
    config = sparkdl.PrepareConfig(path=f"{folder}/data", features=[Tensor("x")], keep=["id"])
    sparkdl.prepare(spark.read.parquet(f"{folder}/plain"), config)
    spark.stop()


def first_epoch(dataset):
    """Read the split once by a new feed; return seconds."""
    from sparkdl import ReaderConfig
    from sparkdl.data.feed.feed import Feed

    split, reader = dataset.split("train"), ReaderConfig(in_memory=False)
    begin = time.perf_counter()
    feed = Feed(dataset, split, rank=0, world_size=1, global_batch_size=256, seed=0, reader=reader, cores=2)
    assert sum(int(block.rows.sum()) for block in feed.blocks([0])) == split.rows
    return time.perf_counter() - begin


def raw_reads(dataset):
    """Read the same files by ranges of 1 MiB, 16 at a time; return seconds."""
    import s3fs

    fs = s3fs.S3FileSystem()
    names = [(f"{dataset.path}/{part.file}".removeprefix("s3://"), part.bytes) for part in dataset.split("train").parts]
    ranges = [(name, at, min(at + MIB, size)) for name, size in names for at in range(0, size, MIB)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        moved = sum(pool.map(lambda part: len(fs.cat_file(part[0], start=part[1], end=part[2])), ranges))
    assert moved == sum(size for _, size in names)
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=196)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency", type=int, nargs="+", default=[0, 30, 100], help="milliseconds of each request")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    import s3fs

    import sparkdl

    context = multiprocessing.get_context("spawn")
    latency, requests, moved, port = (context.Value(kind, 0) for kind in "dqqi")
    with tempfile.TemporaryDirectory() as folder:
        write(folder, arguments.mib)
        server = context.Process(target=serve, args=(folder, latency, requests, moved, port), daemon=True)
        server.start()
        while not port.value:
            time.sleep(0.05)
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port.value}", "AWS_DEFAULT_REGION": "us-east-1"}
        s3fs.S3FileSystem.clear_instance_cache()
        dataset = sparkdl.open_dataset("s3://b/data")
        split = dataset.split("train")
        size = sum(part.bytes for part in split.parts)
        print(f"{size / MIB:.0f} MiB in {len(split.row_group_rows)} row groups, {len(split.parts)} files")
        figures = []
        for milliseconds in arguments.latency:
            latency.value = milliseconds / 1000
            feeds, raws = [], []
            for _ in range(arguments.repeats):
                requests.value = moved.value = 0
                feeds.append(size / MIB / first_epoch(dataset))
                counted = requests.value, moved.value / size
                raws.append(size / MIB / raw_reads(dataset))
            ours, limit = statistics.median(feeds), statistics.median(raws)
            spread = max(feeds) / min(feeds) - 1
            print(
                f"{milliseconds:4d} ms: feed {ours:6.0f} MiB/s, ranged reads {limit:6.0f} MiB/s, ratio "
                f"{ours / limit:.2f} (spread {spread:.0%}); {counted[0]} requests, {counted[1]:.3f} × the bytes"
            )
            figures.append(
                {"latency_ms": milliseconds, "feed": feeds, "raw": raws, "requests": counted[0], "bytes": counted[1]}
            )
        server.terminate()
        server.join()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
