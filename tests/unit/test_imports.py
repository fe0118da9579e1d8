"""Optional imports of Keras are left out within a block, and are there again after it."""

import subprocess
import sys

import pytest

from paths import ROOT
from sparkdl import imports

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = "import sys; from sparkdl.imports import without_optional_imports\n"


def stdout_of(program: str) -> list[str]:
    """Lines that a program prints in a process of its own, in which nothing was imported yet."""
    command = [sys.executable, "-c", HERE + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_scikit_learn_is_absent_within_the_block_alone():
    within = "with without_optional_imports():\n  try: import sklearn\n  except ImportError: print('absent')\n"
    assert stdout_of(within + "import sklearn; print(sklearn.__name__)") == ["absent", "sklearn"]


def test_matplotlib_is_imported_when_it_is_first_used():
    within = "with without_optional_imports():\n  import matplotlib.pyplot as plt\n  from matplotlib import patches\n"
    loaded = "print('matplotlib' in sys.modules)\n"
    used = "print(patches.Patch.__name__, plt.figure.__name__)\nprint(plt.no_such_name)"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        stdout_of(within + loaded + used)
    assert failed.value.stdout.splitlines() == ["False", "Patch figure"]
    assert "AttributeError: module 'matplotlib.pyplot' has no attribute 'no_such_name'" in failed.value.stderr


def test_what_is_used_of_matplotlib_within_the_block_is_imported_there():
    within = "with without_optional_imports():\n  import matplotlib.pyplot as plt, matplotlib\n"
    within += "  from matplotlib import colors\n"
    shown = "print(colors.Normalize.__name__, plt.figure.__name__, matplotlib.__version__ == real.__version__)"
    assert stdout_of(within + "import matplotlib as real\n" + shown) == ["Normalize figure True"]


def test_they_come_back_after_an_error_too(monkeypatch):
    monkeypatch.setattr(imports, "_stand_ins", lambda: {"colorsys": None})
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(KeyError), imports.without_optional_imports():
        raise KeyError
    import colorsys  # noqa: F401


def test_what_was_imported_before_stays(monkeypatch):
    import json

    monkeypatch.setattr(imports, "_stand_ins", lambda: {"json": None})
    with imports.without_optional_imports():
        import json as again
    assert again is json


NOTED = r"""
import os
from sparkdl import imports
with imports._without_notes():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
    os.write(2, b"I0000 00:00:1795782741.693279   28989 port.cc:153] oneDNN custom operations are on.\n")
    os.write(2, b"an error\n")
"""


def stderr_of(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60).stderr


def test_tensorflows_notes_are_kept_from_stderr_and_the_rest_is_not():
    assert stderr_of(NOTED + "os.write(2, b'later\\n')") == "an error\nlater\n"


def test_what_a_process_says_before_it_dies_at_the_import_is_not_lost():
    assert stderr_of(NOTED + "    os.abort()") == "an error\n"


def test_without_grep_or_stderr_the_libraries_are_imported_all_the_same(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "an error" in stderr_of(NOTED)
    assert stdout_of(
        "import os; from sparkdl import imports\nos.close(2)\nwith imports._without_notes(): print(7)"
    ) == ["7"]


def test_horovod_is_built_in_one_way_wherever_it_is_said_how():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    variables = build["extra-build-variables"]["horovod"]
    manual, message = (ROOT / "docs" / "install.md").read_text(), imports.BUILD_HOROVOD
    for text in (manual, message, (ROOT / "docker" / "Dockerfile.gpu").read_text()):
        assert f'CXXFLAGS="{variables["CXXFLAGS"]}"' in text
        assert all(f"{name}=" in text for name in variables)
    needs = [need for need in build["extra-build-dependencies"]["horovod"] if isinstance(need, str)]
    assert all(need in manual and need in message for need in needs)
