"""The public surface: what is importable, and what importing it costs."""

import subprocess
import sys

import sparkdl

HEAVY = {"tensorflow", "keras", "horovod", "petastorm"}


def test_all_is_what_is_there() -> None:
    assert sorted(sparkdl.__all__) == sparkdl.__all__
    assert all(hasattr(sparkdl, name) for name in sparkdl.__all__)


def test_programs_of_databricks_find_their_runner() -> None:
    from sparkdl import HorovodRunner
    from sparkdl.compat import HorovodRunner as ours

    assert HorovodRunner is ours


def test_importing_sparkdl_loads_no_heavy_library_and_no_spark() -> None:
    code = "import sparkdl, sparkdl.features, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    roots = {name.split(".")[0] for name in loaded.stdout.split()}
    assert not roots & (HEAVY | {"pyspark", "pandas", "matplotlib"})


def test_a_name_is_imported_when_it_is_used() -> None:
    code = """
import sys, sparkdl
light = {"numpy", "pyarrow", "fsspec"} & set(sys.modules)
print(sorted(light), sparkdl.fit.__module__, sparkdl.errors.ConfigError is sparkdl.ConfigError, "fit" in dir(sparkdl))
sparkdl.fitt
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[0] == "[] sparkdl.train.fit True True"
    assert "AttributeError: module 'sparkdl' has no attribute 'fitt'" in done.stderr
