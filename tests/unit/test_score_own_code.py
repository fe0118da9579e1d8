"""The code of the user's own classes has a name as long as every process can import it; edited code has another one."""

import functools
import importlib
import sys
import zipfile

import cloudpickle
import pytest

from sparkdl import ModelError
from sparkdl.score import own_code as module
from sparkdl.score.own_code import check_code, own_code


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A package of the user's: layers imports sizes of it, and of the top level what it does not need to run."""
    package = tmp_path / "minekraft"
    package.mkdir()
    files = {
        "minekraft/__init__.py": "",
        "minekraft/layers.py": "import numpy\nfrom . import sizes\n\n\nclass Own:\n    pass\n",
        "minekraft/sizes.py": "SIZE = 2\n",
        "minekraft/unrelated.py": "",
        "minehelper.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (package / "layers.py").write_text(f"{files['minekraft/layers.py']}\ndef later():\n    import minehelper\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "_IMPORTED", {})
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0].startswith("mine")]:
        del sys.modules[name]


def code_of(given=None, saved=None, **how):
    given = given or {}
    return own_code(saved or {}, given, cloudpickle.dumps(given), import_modules=bool(saved), **how)


NAMES = ["minehelper", "minekraft", "minekraft.layers", "minekraft.sizes"]


def test_it_is_that_of_all_own_modules_that_are_imported_and_imports_none(modules) -> None:
    code = code_of(saved={"mine>Own": "minekraft.layers", "loss": None, "Lost": "__main__"})
    assert [name for name, _ in code.modules] == NAMES and code.is_named
    assert not set(NAMES) & sys.modules.keys()
    from minekraft.layers import Own

    given = code_of({"Own": Own})
    assert given.modules == code.modules and given.objects == (("Own", "minekraft.layers:Own"),) and given.is_named


@pytest.mark.parametrize(
    "file", ["minekraft/layers.py", "minekraft/sizes.py", "minekraft/__init__.py", "minehelper.py"]
)
def test_an_edit_makes_another_code_and_a_comment_does_not(modules, file) -> None:
    saved = {"Own": "minekraft.layers"}
    before = code_of(saved=saved)
    text = (modules / file).read_text()
    (modules / file).write_text(f'"""What it is."""\n# Why.\n\n{text}')
    assert code_of(saved=saved) == before
    (modules / file).write_text(f"{text}\nMORE = 1\n")
    assert code_of(saved=saved) != before
    (modules / "minekraft" / "unrelated.py").write_text("MORE = 1\n")
    (modules / file).write_text(text)
    assert code_of(saved=saved) == before


def test_it_is_found_in_a_zip_as_spark_ships_modules(modules, monkeypatch) -> None:
    before = code_of(saved={"Own": "minekraft.layers"})
    with zipfile.ZipFile(modules / "shipped.zip", "w") as archive:
        for name in ("minekraft/__init__.py", "minekraft/layers.py", "minekraft/sizes.py", "minehelper.py"):
            archive.write(modules / name, name)
            (modules / name).unlink()
    monkeypatch.syspath_prepend(str(modules / "shipped.zip"))
    assert code_of(saved={"Own": "minekraft.layers"}) == before


def test_what_no_other_process_can_import_has_no_name(modules) -> None:
    from minekraft.layers import Own

    class Inner:
        pass

    assert not code_of({"Inner": Inner}).is_named
    assert not code_of({"Own": functools.partial(Own)}).is_named
    assert not code_of({"Own": Own, "Inner": Inner}).is_named
    assert not code_of(saved={"Own": "minegone.layers"}).is_named
    # What was renamed or replaced in its module is not what others find there.
    Own.__qualname__ = "Other"
    assert not code_of({"Own": Own}).is_named


def test_a_module_of_an_installed_package_counts_by_its_file_and_version() -> None:
    code = code_of(saved={"Dense": "yaml.nodes"})
    assert [name for name, _ in code.modules] == ["yaml.nodes"] and code.is_named


def test_a_process_that_imported_other_code_is_refused(modules) -> None:
    code = code_of(saved={"Own": "minekraft.layers"})
    check_code(code, "m")  # nothing is imported yet
    importlib.import_module("minekraft.layers")
    check_code(code, "m")
    (modules / "minekraft" / "sizes.py").write_text("SIZE = 3\n")
    with pytest.raises(ModelError, match="module minekraft.sizes, .* is not what it was on the driver"):
        check_code(code, "m")
    edited = code_of(saved={"Own": "minekraft.layers"})
    with pytest.raises(ModelError, match="imported module minekraft.sizes before it was edited"):
        check_code(edited, "m")
