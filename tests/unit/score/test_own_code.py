"""The code of the user's own classes has a name as long as every process can import it; edited code has another one."""

import dataclasses
import functools
import importlib
import sys
import zipfile

import cloudpickle
import pytest

from sparkdl import ModelError
from sparkdl.score import own_code as module
from sparkdl.score.own_code import check_code, own_code
from sparkdl.user_code import edits


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
    monkeypatch.setattr(module, "_WARNED", set())
    monkeypatch.setattr(edits, "_SEEN", {})
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


HELPER = """
import functools

SIZE = 2
count = 0


def plain(x, n=1):
    \"\"\"Do it.\"\"\"
    return [y + n for y in x if y in {"a", "b", 3}]


class Own:
    factor = 2
    made = 0

    def __init__(self, units=4):
        Own.made += 1
        self.units = units

    @property
    def twice(self):
        return 2 * self.units

    @functools.lru_cache(maxsize=1)
    def cached(self):
        return (lambda: self.units)()
"""


def warned_of(caplog, **given) -> list[str]:
    caplog.clear()
    code_of(given)
    return [r.getMessage().split(" was edited")[0] for r in caplog.records if "was edited after" in r.getMessage()]


@pytest.mark.parametrize(
    ("was", "now", "edited"),
    [
        ("y + n", "y - n", True),
        ("n=1", "n=2", True),
        ("units=4", "units=8", True),
        ("2 * self.units", "3 * self.units", True),
        ("(lambda: self.units)", "(lambda: self.made)", True),
        ("SIZE = 2", "SIZE = 3", True),
        ("factor = 2", "factor = 3.0", True),
        ('"""Do it."""', '"""Do it again."""', False),
        ("class Own", "# More.\n\n\nclass Own", False),
        ("", "", False),
    ],
)
def test_a_driver_that_imported_a_module_before_it_was_edited_is_told_once(modules, caplog, was, now, edited) -> None:
    path = modules / "minehelper.py"
    path.write_text(HELPER)
    from minehelper import Own

    Own()  # which counts in the class
    path.write_text(HELPER.replace(was, now))
    assert warned_of(caplog, Own=Own) == (["module minehelper"] if edited else [])
    assert warned_of(caplog, Own=Own) == []
    path.write_text(HELPER)
    assert warned_of(caplog, Own=Own) == []
    path.write_text(HELPER.replace(was, now))
    helper = importlib.reload(sys.modules["minehelper"])
    assert warned_of(caplog, Own=helper.Own) == []


def test_an_edit_of_what_is_in_no_function_is_seen_once_the_module_was_looked_at(modules, caplog) -> None:
    from minekraft.layers import Own

    text = (modules / "minekraft" / "layers.py").read_text()
    assert warned_of(caplog, Own=Own) == []
    (modules / "minekraft" / "layers.py").write_text(f"{text}\nTABLE = dict(a=1)\n")
    assert warned_of(caplog, Own=Own) == ["module minekraft.layers"]
    (modules / "minekraft" / "layers.py").write_text(text)
    assert warned_of(caplog, Own=Own) == []


def test_no_module_of_python_and_of_packages_seems_edited() -> None:
    import json
    import typing

    import keras
    import pandas

    keras_modules = [m for name, m in list(sys.modules.items()) if name.startswith("keras.src.layers") and m]
    for found in (dataclasses, functools, json, typing, pandas, keras, *keras_modules):
        assert not edits._differs(found, found.__spec__), found.__name__
