"""What is left beside an output, whoever was killed or works at the same time."""

import json
import os
import uuid

import fsspec
import pytest

from sparkdl import ConfigError, storage
from sparkdl.score.commit import finished, new_output, put_back
from sparkdl.score.plan import ScorePlan
from sparkdl.storage import folders


def make(out: str, *, content: bytes = b"1", replace: bool = False) -> None:
    with new_output(out, replace=replace) as new:
        storage.write_atomic(storage.join(new.folder, "a"), content)
        new.commit({"a": len(content)}, {"made_of": content.decode(), "rows": 1})


def foretold(out: str, made_of: str, if_exists: str) -> str:
    return ScorePlan(out=out, made_of=made_of, if_exists=if_exists).state


def predictions(out: str) -> list[bytes]:
    """Of all parts that a reader sees."""
    return [storage.read_bytes(storage.join(out, name)) for name in storage.listing(out) if name.startswith("part-")]


def test_what_a_driver_left_that_was_killed_a_moment_ago_is_deleted_at_the_end(tmp_path) -> None:
    dead = tmp_path / ".out.scoring" / "generation-dead"
    dead.mkdir(parents=True)
    (dead / "part").write_bytes(b"half")
    lease = tmp_path / ".out.scoring" / "generation-dead.lease"
    lease.touch()
    with new_output(str(tmp_path / "out")):
        assert dead.exists(), "it may live"
        os.utime(lease, (1, 1))
    assert os.listdir(tmp_path) == []
    assert foretold(str(tmp_path / "out"), "1", "reuse") == "new"
    make(str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["out"] and finished(str(tmp_path / "out"), "1") is not None


def test_a_run_that_begins_while_another_one_ends_keeps_its_lease(tmp_path, monkeypatch) -> None:
    """The ending one looks, then the other one's lease comes, then the ending one tidies up."""
    staging, listing = tmp_path / ".out.scoring", storage.listing
    begun = staging / "generation-other.lease"

    def looked(path: str) -> list[str]:
        names = listing(path)
        if not names or not storage.exists(new.lease.file):
            begun.touch()
        return names

    with new_output(str(tmp_path / "out")) as new:
        monkeypatch.setattr(storage, "listing", looked)
        monkeypatch.setattr(os, "rmdir", lambda path, rmdir=os.rmdir, **how: (begun.touch(), rmdir(path, **how)))
    assert begun.exists()


def test_a_replacement_that_is_killed_between_its_two_steps_is_taken_back(tmp_path, monkeypatch) -> None:
    out = str(tmp_path / "out")
    make(out)

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(folders, "name_folder", killed)
        # A killed process would not tidy up either.
        patch.setattr(folders, "restore_folder", lambda path, aside: None)
        make(out, content=b"22", replace=True)
    assert not os.path.exists(out)
    # A dry run tells what the run will find, and moves nothing.
    assert foretold(out, "1", "reuse") == "finished" and foretold(out, "22", "replace") == "replaced"
    with pytest.raises(ConfigError, match=f"output {out} already holds predictions of another input"):
        foretold(out, "22", "reuse")
    assert not os.path.exists(out)
    put_back(out)
    assert foretold(out, "1", "reuse") == "finished" and foretold(out, "22", "replace") == "replaced"
    assert predictions(out) == [b"1"] and os.listdir(tmp_path) == ["out"]
    make(out, content=b"22", replace=True)
    assert predictions(out) == [b"22"] and os.listdir(tmp_path) == ["out"]


def test_a_replacement_that_fails_between_its_two_steps_puts_the_old_one_back(tmp_path, monkeypatch) -> None:
    out = str(tmp_path / "out")
    make(out)

    def failing(folder: str, path: str) -> None:
        raise ConfigError("no room")

    monkeypatch.setattr(folders, "name_folder", failing)
    with pytest.raises(ConfigError, match="no room"):
        make(out, content=b"22", replace=True)
    assert predictions(out) == [b"1"] and os.listdir(tmp_path) == ["out"]


def test_what_a_killed_driver_did_not_delete_of_a_replaced_output_is_deleted(tmp_path) -> None:
    out, aside = str(tmp_path / "out"), tmp_path / ".out.scoring" / "replaced"
    make(out)
    aside.mkdir(parents=True)
    (aside / "part-00000.parquet").write_bytes(b"old")
    put_back(out)
    assert predictions(out) == [b"1"] and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("store", ["disk", "memory"])
def test_predictions_that_were_changed_since_are_not_found(tmp_path, store) -> None:
    out = str(tmp_path / "out") if store == "disk" else f"memory://{uuid.uuid4().hex}/out"
    make(out)
    part = storage.join(out, "part-00000.parquet")
    assert finished(out, "1") is not None
    # Spark's mode("append"), a part of another length, and one that is gone.
    storage.write_atomic(storage.join(out, "part-of-spark.parquet"), b"1")
    with pytest.raises(ConfigError, match="part-of-spark.parquet was added; choose a new folder, or if_exists"):
        finished(out, "1")
    storage.delete(storage.join(out, "part-of-spark.parquet"))
    storage.write_atomic(part, b"11")
    with pytest.raises(ConfigError, match="not as it was written: part-00000.parquet is of another size"):
        finished(out, "1")
    storage.delete(part)
    with pytest.raises(ConfigError, match="part-00000.parquet is missing"):
        finished(out, "1")
    assert finished(out, "1", "replace") is None
    make(out, replace=True)
    assert finished(out, "1") is not None
    # Outputs of before do not tell their parts.
    figures = storage.join(out, "_score.json")
    told = json.loads(storage.read_bytes(figures))
    assert told.pop("parts") == {name: 1 for name in storage.listing(out) if name.startswith("part-")}
    storage.write_atomic(figures, json.dumps(told).encode())
    assert finished(out, "1") == told


def test_a_commit_that_was_killed_at_its_very_end_is_replaced_like_any(monkeypatch) -> None:
    out = f"memory://{uuid.uuid4().hex}/out"
    make(out)
    storage.write_atomic(storage.join(out, "_committing.json"), b"[]")
    assert finished(out, "1") is not None
    assert finished(out, "1", "replace") is None
    make(out, content=b"22", replace=True)
    assert predictions(out) == [b"22"] and "_committing.json" not in storage.listing(out)


def test_predictions_in_a_store_are_replaced_when_the_new_ones_are_there(monkeypatch) -> None:
    out = f"memory://{uuid.uuid4().hex}/out"
    make(out)
    seen, copy_files = [], folders.copy_files

    def watched(targets) -> None:
        copy_files(targets)
        seen.append((sorted(predictions(out)), "_SUCCESS" in storage.listing(out)))

    monkeypatch.setattr(folders, "copy_files", watched)
    make(out, content=b"22", replace=True)
    assert seen == [([b"1", b"22"], False)], "the old ones stay until the new ones are there, which nothing tells yet"
    assert predictions(out) == [b"22"] and finished(out, "22") is not None
    with pytest.raises(ConfigError, match="another run has written there meanwhile"):
        make(out, content=b"333")

    def killed(targets) -> None:
        copy_files(targets)
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "copy_files", killed)
    with pytest.raises(KeyboardInterrupt):
        make(out, content=b"333", replace=True)
    assert foretold(out, "333", "replace") == foretold(out, "22", "reuse") == "new"  # a half is taken back
    assert finished(out, "22") is None, "which of the two are meant nothing tells"
    monkeypatch.setattr(folders, "copy_files", copy_files)
    make(out, content=b"333")
    assert predictions(out) == [b"333"] and finished(out, "333") is not None
    assert json.loads(storage.read_bytes(f"{out}/_score.json"))["made_of"] == "333"
    fsspec.filesystem("memory").store.clear()
