"""Optional imports of Keras are left out within a block, and are there again after it."""

import subprocess
import sys

import pytest

from sparkdl import imports

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


def test_tensorflows_notes_are_kept_from_stderr_and_the_rest_is_not():
    notes = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n"
    notes += "I0000 00:00:1795782741.693279   28989 port.cc:153] oneDNN custom operations are on.\\n"
    program = "import os\nfrom sparkdl import imports\nwith imports._without_notes():\n"
    program += f"    os.write(2, b'{notes}an error\\n')\nos.write(2, b'later\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "an error\nlater\n"
