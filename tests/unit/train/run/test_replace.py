"""A run that another one replaces lies beside it, on disks and on object stores."""

import pytest

from sparkdl import storage
from sparkdl.storage import folders
from sparkdl.train.run.made_by import UNKNOWN_CODE, Code, MadeBy, write_made_by
from sparkdl.train.run.replace import discard_replaced, goes_on, kept_aside, set_aside
from sparkdl.train.run.run_dir import RunDir

FILES = ("finished.json", "history.json", "checkpoints/epoch-00001-step-00000000/checkpoint.json", "run.json")
CODE = Code(build_model="a", callbacks="b")


@pytest.fixture(params=["disk", "s3"])
def run(request, tmp_path):
    """A finished run; its name holds what some filesystems take for a pattern."""
    path = str(tmp_path / "run[1]") if request.param == "disk" else f"s3://{request.getfixturevalue('bucket')}/a/run[1]"
    return fill(RunDir(path))


def fill(run, content=b"{}"):
    for name in FILES:
        storage.write_atomic(storage.join(run.path, name), content)
    return run


def test_each_replaced_run_is_kept_until_one_has_finished(run) -> None:
    set_aside(run)
    assert storage.listing(run.path) == [] and kept_aside(run) == [f"{run.path}.replaced"]
    assert {*storage.listing(f"{run.path}.replaced")} >= {"run.json", "finished.json", "history.json", "checkpoints"}
    assert storage.read_bytes(f"{run.path}.replaced/{FILES[2]}") == b"{}"
    set_aside(run)  # nothing there any more
    set_aside(fill(run, b"[]"))
    assert kept_aside(run) == [f"{run.path}.replaced", f"{run.path}.replaced-2"]
    assert [storage.read_bytes(f"{path}/history.json") for path in kept_aside(run)] == [b"{}", b"[]"]
    storage.write_atomic(f"{run.path}/model", b"new")
    discard_replaced(run)
    assert kept_aside(run) == [] and storage.listing(f"{run.path}.replaced") == []
    assert storage.read_bytes(f"{run.path}/model") == b"new"


def test_a_folder_of_that_name_that_is_not_ours_stays(run) -> None:
    storage.write_atomic(f"{run.path}.replaced/mine.txt", b"mine")
    set_aside(run)
    assert storage.exists(f"{run.path}.replaced-2/run.json")
    discard_replaced(run)
    assert not storage.listing(f"{run.path}.replaced-2")
    assert storage.read_bytes(f"{run.path}.replaced/mine.txt") == b"mine"


def test_a_copy_that_breaks_off_leaves_the_run_whole(run, monkeypatch) -> None:
    if storage.renames(run.path):
        pytest.skip("renamed in one step")
    fs, _ = storage.filesystem(run.path)
    with monkeypatch.context() as patch:
        patch.setattr(fs, "cp_file", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(OSError, match="gone"):
            folders.move_folder(run.path, f"{run.path}.replaced", last="run.json", mark=("mark", b""))
    assert all(storage.exists(f"{run.path}/{name}") for name in FILES)


def test_only_this_very_run_goes_on_and_only_unfinished(tmp_path) -> None:
    run = RunDir(str(tmp_path / "run"))
    assert not goes_on(run, lambda resume: False, CODE, epochs=1)
    fill(run)
    assert not goes_on(run, lambda resume: True, CODE, epochs=1)
    run.begin({}, resume="replace")
    assert not goes_on(run, lambda resume: True, CODE, epochs=1)
    storage.delete_file(run.finished)
    storage.delete(run.checkpoints)
    assert goes_on(run, lambda resume: True, CODE, epochs=1)  # nothing is trained yet
    storage.write_atomic(storage.join(run.path, FILES[2]), b'{"format_version": 1, "epoch": 2, "step": 0, "facts": {}}')
    assert not goes_on(run, lambda resume: True, CODE, epochs=3)  # of an unknown build_model
    write_made_by(run.code, MadeBy(code=CODE, model={}, callbacks=[]))
    assert goes_on(run, lambda resume: True, CODE, epochs=3)
    assert not goes_on(run, lambda resume: True, CODE, epochs=1)
    assert not goes_on(run, lambda resume: True, Code(build_model="a", callbacks="c"), epochs=3)
    assert not goes_on(run, lambda resume: True, UNKNOWN_CODE, epochs=3)
    run.begin({}, resume="auto")  # of another call: it is trained anew
    assert not goes_on(run, lambda resume: True, CODE, epochs=3)


def test_a_run_that_replace_began_is_not_told_to_use_replace(tmp_path) -> None:
    """It would go on with the same run, which is refused again."""
    run = RunDir(str(tmp_path / "run"))
    run.begin({}, resume="auto")
    assert "resume='replace', which keeps the old run aside" in run.ways_out()
    run.begin({}, resume="replace")
    assert run.ways_out() == (
        "choose another run_dir, or delete this one, which holds a run that resume='replace' began"
    )
