"""What is left beside an output, whoever was killed or works at the same time."""

import os

from sparkdl import storage
from sparkdl.score.output_folder import finished, new_output


def make(out: str) -> None:
    with new_output(out) as new:
        os.makedirs(new.folder)
        with open(os.path.join(new.folder, "a"), "wb") as file:
            file.write(b"1")
        new.commit({"a": 1}, {"made_of": "rows", "rows": 1})


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
    make(str(tmp_path / "out"))
    assert os.listdir(tmp_path) == ["out"] and finished(str(tmp_path / "out"), "rows") is not None


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
