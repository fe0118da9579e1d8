"""Small files and folders on local paths and on fsspec's memory filesystem."""

import os
from pathlib import Path

import pytest

from sparkdl import ConfigError, storage


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    path = str(tmp_path) if request.param == "local" else f"memory://{tmp_path}"
    yield path
    storage.delete(path)


def test_a_written_file_is_read_back_and_replaced_whole(folder: str) -> None:
    file = storage.join(folder, "a", "b.json")
    for content in (b"one", b"another"):
        storage.write_atomic(file, content)
        assert storage.read_bytes(file) == content
    assert storage.listing(storage.join(folder, "a")) == ["b.json"]


def test_a_missing_file_and_folder_are_no_surprise(folder: str) -> None:
    assert storage.listing(storage.join(folder, "nowhere")) == []
    assert not storage.exists(storage.join(folder, "nowhere"))
    storage.delete(storage.join(folder, "nowhere"))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(folder, "nowhere"))


def test_a_folder_is_copied_with_what_is_below(folder: str, tmp_path_factory) -> None:
    source = tmp_path_factory.mktemp("source")
    (source / "deep").mkdir()
    (source / "deep" / "x").write_bytes(b"1")
    (source / "y").write_bytes(b"2")
    storage.upload_folder(str(source), storage.join(folder, "copy"))
    assert storage.read_bytes(storage.join(folder, "copy", "deep", "x")) == b"1"
    assert storage.listing(storage.join(folder, "copy")) == ["deep", "y"]


def test_a_failed_write_leaves_nothing(tmp_path) -> None:
    (tmp_path / "target").mkdir()  # a folder cannot be replaced by a file
    (tmp_path / "target" / "inside").write_text("x")
    with pytest.raises(OSError):
        storage.write_atomic(str(tmp_path / "target"), b"x")
    assert os.listdir(tmp_path) == ["target"]


def test_local_paths_become_absolute_and_urls_stay() -> None:
    assert storage.absolute("data") == os.path.join(os.getcwd(), "data")
    assert storage.absolute("file:///tmp/x") == storage.absolute("file:/tmp/x") == "/tmp/x"
    assert storage.absolute(Path("/tmp/x")) == "/tmp/x"
    assert storage.absolute("s3://bucket/x/") == "s3://bucket/x"


@pytest.mark.parametrize("path", [None, "", 3, "memory://x", "dbfs:/x"])
def test_what_no_other_process_would_find_is_refused(path: object) -> None:
    with pytest.raises(ConfigError):
        storage.absolute(path)
