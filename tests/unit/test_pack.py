"""What goes into the archive of `make pack`. tests/soak/test_cluster_docs.py makes one and trains from it."""

import sys

import pack_files


def test_the_archive_has_what_sparkdl_asks_for_and_no_tool_of_development() -> None:
    names = set(pack_files.requirements())
    assert {"sparkdl-tf", "horovod", "keras", "petastorm", "pyarrow", "s3fs", "setuptools"} <= names
    assert {"tensorflow-cpu", "tensorflow"} & names
    assert not {"pyspark", "py4j", "pytest", "ruff", "mypy", "moto", "scikit-learn", "matplotlib", "pip", "uv"} & names


def test_no_test_header_or_cache_is_packed() -> None:
    places = [place for name in ("numpy", "pyarrow") for _, place in pack_files.package_files(name)]
    assert any(place.name == "__init__.py" for place in places)
    assert not any({"tests", "include"} & set(place.parts[:-1]) for place in places)
    own = {str(place) for _, place in pack_files.own_files()}
    assert "sparkdl/launch/worker/reaper.py" in own and "sparkdl/py.typed" in own
    assert not any(place.endswith(".pyc") for place in own)


def test_a_module_comes_with_its_bytecode(tmp_path) -> None:
    for name in ("with.py", "without.py", f"__pycache__/with.{sys.implementation.cache_tag}.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    files = ((path, path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*")) if path.is_file())
    places = [str(place) for _, place in pack_files.with_bytecode(files)]
    assert places == ["with.py", f"__pycache__/with.{sys.implementation.cache_tag}.pyc", "without.py"]
