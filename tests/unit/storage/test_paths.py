"""Small files and folders on local paths and on fsspec's memory filesystem."""

import os
import time
from pathlib import Path

import pytest

from sparkdl import ConfigError, storage
from sparkdl.storage import folders


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
    folders.upload_folder(str(source), storage.join(folder, "copy"))
    assert storage.read_bytes(storage.join(folder, "copy", "deep", "x")) == b"1"
    assert storage.listing(storage.join(folder, "copy")) == ["deep", "y"]


def test_sizes_are_of_files_and_times_are_of_the_last_write(folder: str) -> None:
    storage.write_atomic(storage.join(folder, "a"), b"12")
    storage.write_atomic(storage.join(folder, "deep", "b"), b"1")
    assert storage.sizes(folder) == {"a": 2}
    assert storage.sizes(storage.join(folder, "nowhere")) == {}
    lease = storage.join(folder, "lease")
    storage.touch(lease)
    first = storage.modified(lease)
    time.sleep(0.02)
    storage.touch(lease)
    assert storage.modified(lease) > first
    with pytest.raises(FileNotFoundError):
        storage.modified(storage.join(folder, "nowhere"))


def test_a_file_that_is_given_up_is_not_there(folder: str) -> None:
    path = storage.join(folder, "part")
    fs, inner = storage.filesystem(path)
    handle = fs.open(inner, "wb")
    handle.write(b"half")
    storage.discard(handle, path)
    assert not storage.exists(path)


def test_a_file_that_need_not_last_is_replaced_whole_too(folder: str) -> None:
    file = storage.join(folder, "a", "b")
    for content in (b"one", b"another"):
        storage.write_atomic(file, content, durable=False)
        assert storage.read_bytes(file) == content
    assert storage.listing(storage.join(folder, "a")) == ["b"]


def test_one_file_is_deleted_and_a_missing_one_is_no_surprise(folder: str) -> None:
    for name in ("a", "b"):
        storage.write_atomic(storage.join(folder, name), b"x")
    for _ in range(2):
        storage.delete_file(storage.join(folder, "a"))
        assert storage.listing(folder) == ["b"]


@pytest.mark.parametrize("size", [0, 3, 9 << 20])
def test_the_start_of_a_file_that_grows_is_written(folder: str, tmp_path_factory, size: int) -> None:
    path = storage.join(folder, "deep", "log")
    with open(tmp_path_factory.mktemp("source") / "file", "w+b") as source:
        source.write(os.urandom(size) + b"more")
        source.flush()
        for _ in range(2):  # the second replaces the first
            storage.write_from(path, source, size)
        source.seek(0)
        assert storage.read_bytes(path) == source.read(size)


def test_a_file_that_cannot_be_read_to_its_end_is_given_up(folder: str, tmp_path) -> None:
    path = storage.join(folder, "log")
    with open(tmp_path / "source", "w+b") as source:
        pass
    with pytest.raises(ValueError, match="closed file"):
        storage.write_from(path, source, 5)
    assert not storage.exists(path)


def test_a_failed_write_leaves_nothing(tmp_path) -> None:
    (tmp_path / "target").mkdir()  # a folder cannot be replaced by a file
    (tmp_path / "target" / "inside").write_text("x")
    with pytest.raises(OSError):
        storage.write_atomic(str(tmp_path / "target"), b"x")
    assert os.listdir(tmp_path) == ["target"]


def test_a_password_in_a_path_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="holds a password") as raised:
        storage.absolute("sftp://someone:hidden-word@host/data")
    assert "hidden-word" not in str(raised.value)
    assert storage.absolute("sftp://someone@host/data") == "sftp://someone@host/data"


def test_local_paths_become_absolute_and_urls_stay() -> None:
    assert storage.absolute("data") == os.path.join(os.getcwd(), "data")
    assert storage.absolute("file:///tmp/x") == storage.absolute("file:/tmp/x") == "/tmp/x"
    assert storage.absolute(Path("/tmp/x")) == "/tmp/x"
    assert storage.absolute("s3://bucket/x/") == "s3://bucket/x"


@pytest.mark.parametrize("path", [None, "", 3, "memory://x", "dbfs:/x"])
def test_what_no_other_process_would_find_is_refused(path: object) -> None:
    with pytest.raises(ConfigError):
        storage.absolute(path)


def test_a_large_file_is_downloaded(folder: str, tmp_path_factory) -> None:
    content = os.urandom(3 << 20)
    storage.write_atomic(storage.join(folder, "a"), content)
    local = tmp_path_factory.mktemp("local") / "b"
    storage.download(storage.join(folder, "a"), str(local))
    assert local.read_bytes() == content
    with pytest.raises(FileNotFoundError):
        storage.download(storage.join(folder, "nowhere"), str(local.with_name("c")))
    assert os.listdir(local.parent) == ["b"]


def test_a_folder_is_committed_whole_in_place_of_the_one_there(folder: str) -> None:
    target = storage.join(folder, "deep", "model")
    for content in (b"one", b"two"):
        with folders.committed_folder(target, last="last.json") as aside:
            Path(aside, "last.json").write_bytes(content)
            Path(aside, "below").mkdir()
            Path(aside, "below", content.decode()).write_bytes(content)
            # Until the block ends, readers see what was there.
            before = storage.read_bytes(storage.join(target, "last.json")) if content == b"two" else None
            assert before == (b"one" if content == b"two" else None)
        assert storage.read_bytes(storage.join(target, "last.json")) == content
        assert storage.read_bytes(storage.join(target, "below", content.decode())) == content
        assert storage.listing(storage.join(folder, "deep")) == ["model"]


def test_a_folder_that_is_given_up_leaves_the_one_there(folder: str) -> None:
    target = storage.join(folder, "model")
    storage.write_atomic(storage.join(target, "last.json"), b"old")
    with pytest.raises(KeyError), folders.committed_folder(target, last="last.json") as aside:
        Path(aside, "last.json").write_bytes(b"new")
        raise KeyError
    assert storage.listing(folder) == ["model"] and storage.read_bytes(storage.join(target, "last.json")) == b"old"


def test_a_folder_whose_upload_fails_leaves_no_half(tmp_path, monkeypatch) -> None:
    target = f"memory://{tmp_path}/model"
    fs, _ = storage.filesystem(target)
    copied = []

    def put_file(local, path, **options):
        copied.append(path)
        if len(copied) == 3:
            raise OSError("the network is down")
        type(fs).put_file(fs, local, path, **options)

    monkeypatch.setattr(fs, "put_file", put_file)
    with pytest.raises(OSError, match="network"), folders.committed_folder(target, last="a.json") as aside:
        for name in ("a.json", "b", "c"):
            Path(aside, name).write_bytes(b"x")
    assert [path.rsplit("/")[-1] for path in copied] == ["b", "c", "a.json"]
    assert storage.listing(target) == []


def test_files_are_uploaded_with_the_last_one_last(folder: str, tmp_path_factory) -> None:
    source = tmp_path_factory.mktemp("source")
    for name in ("a", "b"):
        (source / name).write_bytes(name.encode())
    folders.upload_folder(str(source), folder, last="a")
    assert storage.listing(folder) == ["a", "b"] and storage.read_bytes(storage.join(folder, "a")) == b"a"
