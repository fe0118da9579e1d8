"""What counts as the same code, and what does not."""

import functools
import importlib
import subprocess
import sys
import textwrap
import threading
import types

import pytest

from sparkdl.user_code.fingerprint import code_digest, fingerprint, is_own
from sparkdl.user_code.source import source_digests


def cell(source, name="build_model", **names):
    """What a notebook's cell defines: in __main__, under a file name of its own."""
    namespace = {"__name__": "__main__", **names}
    exec(compile(textwrap.dedent(source), f"<cell {len(source)}>", "exec"), namespace)
    return namespace[name]


MODEL = """
    WIDTH = 4

    class Scaled(dict):
        factor = 2

        def call(self, x):
            return x * self.factor

    def width():
        return WIDTH

    def build_model(ds, rate=0.1):
        sizes = {"small", "large", "medium"}
        return [Scaled(deep=1), width(), rate, "a" in {"b", "c"}, lambda y: y + 1]
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return WIDTH", "# a comment\n        return WIDTH  # another"),
        ("def width():", 'def width():\n        """Give the width."""'),
        ("class Scaled(dict):", '\n\n    class Scaled(dict):\n        """A docstring."""'),
        ("WIDTH = 4", "WIDTH = 4\n    UNUSED = 5"),
    ],
)
def test_what_changes_no_code_leaves_the_fingerprint(old, new) -> None:
    assert MODEL.replace(old, new) != MODEL
    assert fingerprint(cell(MODEL.replace(old, new))) == fingerprint(cell(MODEL)) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WIDTH = 4", "WIDTH = 8"),
        ("x * self.factor", "x + self.factor"),
        ("factor = 2", "factor = 3"),
        ("(dict)", "(list)"),
        ("rate=0.1", "rate=0.2"),
        ("rate=0.1", "*, rate=0.1"),
        ("y + 1", "y + 2"),
        ('"c"}', '"d"}'),
        ("return WIDTH", "return WIDTH or WIDTH"),
        ("deep=1", "wide=1"),
    ],
)
def test_a_change_of_code_anywhere_below_changes_the_fingerprint(old, new) -> None:
    assert MODEL.replace(old, new) != MODEL
    assert fingerprint(cell(MODEL.replace(old, new))) != fingerprint(cell(MODEL))


def test_the_fingerprint_is_that_of_another_process_with_another_hash_seed(tmp_path) -> None:
    program = tmp_path / "program.py"
    end = "\nfrom sparkdl.user_code.fingerprint import fingerprint\nprint(fingerprint(build_model))"
    program.write_text(textwrap.dedent(MODEL) + end)
    for seed in ("0", "1"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        printed = subprocess.check_output([sys.executable, program], env=environment, text=True, timeout=60)
        assert printed.strip() == fingerprint(cell(MODEL))


def test_a_variable_a_partial_and_a_method_count_with_what_they_hold() -> None:
    def of(width, *, table=()):
        def build_model(ds):
            return width, table

        return build_model

    assert fingerprint(of(4)) == fingerprint(of(4)) != fingerprint(of(8))
    assert fingerprint(of({"a": {1, 2}})) != fingerprint(of({"a": {1, 3}}))
    assert fingerprint(functools.partial(of, 4)) != fingerprint(functools.partial(of, 8))
    assert fingerprint(None) is not None
    source = "class Maker:\n def __init__(self, width): self.width = width\n def build(self, ds): return self.width"
    maker = cell(source, "Maker")
    assert fingerprint(maker(4).build) == fingerprint(maker(4).build) != fingerprint(maker(8).build)


def test_what_refers_to_itself_has_a_fingerprint() -> None:
    source = "def build_model(n):\n return other(n) if n else 1\ndef other(n):\n return build_model(n - {})"
    assert fingerprint(cell(source.format(1))) == fingerprint(cell(source.format(1)))
    assert fingerprint(cell(source.format(1))) != fingerprint(cell(source.format(2)))


def test_what_cannot_be_told_has_none() -> None:
    assert fingerprint(cell("def build_model(ds):\n return LOCK", LOCK=threading.Lock())) is None


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's own: a module that builds, and a helper that it imports in a function."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "build.py").write_text("def build_model(ds):\n    from . import helper\n    return helper.width()\n")
    (folder / "helper.py").write_text("import numpy as np\nimport json\n\n\ndef width():\n    return 4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_modules_count_by_the_source_that_a_new_process_would_import(package) -> None:
    build_model = importlib.import_module(f"{package.name}.build").build_model
    by_name = cell(f"def build_model(ds):\n from {package.name}.build import build_model as b\n return b(ds)")
    by_module = cell("def build_model(ds):\n return build.build_model(ds)", build=sys.modules[build_model.__module__])
    functions = (build_model, by_name, by_module)
    before = [fingerprint(fn) for fn in functions]
    digests = source_digests([build_model.__module__])
    assert {package.name, f"{package.name}.build", f"{package.name}.helper", "numpy", "json"} == set(digests)
    assert digests["numpy"] and digests["numpy"] != digests["json"] == ""
    helper = package / "helper.py"
    helper.write_text('"""A docstring."""\n' + helper.read_text() + "\n# the end\n")
    assert [fingerprint(fn) for fn in functions] == before
    helper.write_text(helper.read_text().replace("4", "8"))
    assert all(new != old for new, old in zip([fingerprint(fn) for fn in functions], before, strict=True))


def test_a_module_made_at_run_time_counts_by_its_content() -> None:
    def of(width):
        made = types.ModuleType("made_at_run_time")
        made.width = width
        return cell("def build_model(ds):\n return made.width", made=made)

    assert fingerprint(of(4)) == fingerprint(of(4)) != fingerprint(of(8))


LOSS = """
    import numpy as np

    GAMMA = 2.0
    TABLE = np.arange(3)

    def power(p):
        return p ** GAMMA

    def make(alpha):
        def focal(y, p):
            return alpha * power(p) * np.log(p) * TABLE[0]
        return focal

    class Loss:
        fn = make(0.25)
"""


@pytest.mark.parametrize(
    ("old", "new"), [("GAMMA = 2.0", "GAMMA = 3.0"), ("0.25", "0.5"), ("p ** GAMMA", "GAMMA ** p"), ("(3)", "(4)")]
)
def test_code_in_a_model_counts_with_what_it_refers_to(old, new) -> None:
    again = LOSS.replace("def power(p):", "# again\n    def power(p):")
    assert code_digest(cell(again, "Loss")) == code_digest(cell(LOSS, "Loss"))
    assert code_digest(cell(LOSS.replace(old, new), "Loss")) != code_digest(cell(LOSS, "Loss"))


VALUES = """
    import collections, dataclasses, datetime, enum, functools, re, threading, types
    import numpy as np
    import pandas as pd

    WIDTH = 4

    @functools.cache
    def cached():
        return WIDTH

    @dataclasses.dataclass(slots=True)
    class Slots:
        width: int

    class Pair(collections.namedtuple("Pair", "a b")):
        __slots__ = ()

    class Table(dict):
        pass

    class Kind(enum.Enum):
        ONE = WIDTH

    class Lazy:
        @functools.cached_property
        def width(self):
            return WIDTH * 2

    lazy, locked = Lazy(), threading.Lock()
    held = {held}

    class Loss:
        def call(self, y):
            return held, locked, lazy
"""


@pytest.mark.parametrize(
    "held",
    [
        *("cached", "Slots(WIDTH)", "Pair(1, WIDTH)", "Table(width=WIDTH)", "Kind.ONE", "datetime.timedelta(WIDTH)"),
        *("types.SimpleNamespace(w=WIDTH)", "collections.OrderedDict(w=WIDTH)", "collections.deque([WIDTH])"),
        *("range(WIDTH)", "slice(WIDTH)", "{WIDTH: 1}.get"),
        *("np.float32(WIDTH)", "np.array([WIDTH, 'a'], object)", "pd.Series([1, WIDTH])", "pd.Index([WIDTH])"),
        *("pd.DataFrame({'w': [WIDTH], 'name': ['a']})", "re.compile(str(WIDTH))", "pd.Timestamp(WIDTH)"),
        *("(np.exp if WIDTH == 4 else np.log)", "frozenset([WIDTH])", "[str(WIDTH)].index", "Lazy"),
    ],
)
def test_values_that_code_in_a_model_refers_to_count_by_their_content(held) -> None:
    """Each refers to WIDTH, by a function, an object or a table."""
    source = VALUES.replace("{held}", held)
    assert code_digest(cell(source, "Loss")) == code_digest(cell(source, "Loss"))
    assert code_digest(cell(source.replace("WIDTH = 4", "WIDTH = 8"), "Loss")) != code_digest(cell(source, "Loss"))


def test_the_state_of_a_process_is_no_part_of_code() -> None:
    source = """
        import random, threading
        import numpy as np
        held = [random.Random(), threading.Thread(), np.random.default_rng(), threading.Event(), (n for n in range(3))]
        class Loss:
            def call(self, y):
                return held
    """
    assert code_digest(cell(source, "Loss")) == code_digest(cell(source, "Loss"))


def test_code_of_an_importable_module_counts_by_itself_and_not_by_its_neighbours(package) -> None:
    source = "def {}(): return 1\n\n\nclass Layer:\n    def call(self): return {}\n"

    def digest(neighbour, value):
        (package / "layers.py").write_text(source.format(neighbour, value))
        sys.modules.pop(f"{package.name}.layers", None)
        importlib.invalidate_caches()
        namespace = types.ModuleType(f"{package.name}.layers")
        exec((package / "layers.py").read_text(), namespace.__dict__)
        return code_digest(namespace.Layer)

    assert digest("one", 1) == digest("other", 1) != digest("one", 2)


def test_libraries_are_not_the_users_own() -> None:
    own = cell("class build_model:\n pass")
    assert is_own(own) and is_own(test_libraries_are_not_the_users_own)
    assert not is_own(threading.Thread) and not is_own(pytest.raises) and not is_own(fingerprint) and not is_own(3)
