"""Gather what a host without this environment needs to run sparkdl: interpreter, packages, bytecode; one folder.

    .venv/bin/python scripts/pack_files.py FOLDER

The folder works wherever it is put on Linux with this C library or a newer one. Files are linked where the disk allows
it. Spark itself is left out: the cluster has it, and gives its Python part to its workers. So are tests, headers, pip
and the tools of development. scripts/pack.sh calls it.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTION = "sparkdl-tf"
# The cluster's own, and what TensorFlow names but imports nowhere.
LEFT_OUT = ("pyspark", "py4j", "libclang")
# Of the standard library; the rest of it is small.
LIBRARY_LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data")
# Folders of packages that only builds and tests read.
PACKAGE_LEFT_OUT = ("include", "tests")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
# What an interpreter of a distribution, which looks for packages elsewhere, needs to be told.
SITE = """\
import os, site, sys
packages = os.path.join(os.path.dirname(os.__file__), "site-packages")
if packages not in sys.path:
    site.addsitedir(packages)
"""


def requirements() -> list[str]:
    """The names of all distributions that sparkdl needs here, its own and those of their extras included."""
    extras = ["cpu" if _is_installed("tensorflow-cpu") else "gpu", "s3"]
    found: dict[str, None] = {}
    pending = [(DISTRIBUTION, frozenset(extras))]
    done = set()
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in done or name in LEFT_OUT or not _is_installed(name):
            continue
        done.add((name, wanted))
        found[name] = None
        for text in metadata.distribution(name).requires or ():
            need = Requirement(text)
            marker = need.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                pending.append((need.name.lower().replace("_", "-"), frozenset(need.extras)))
    return list(found)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def package_files(name: str) -> Iterator[tuple[Path, Path]]:
    """Where each file of an installed distribution is, and its place under site-packages."""
    for file in metadata.distribution(name).files or ():
        place = Path(file)
        source = Path(str(file.locate()))
        outside = place.is_absolute() or ".." in place.parts
        if outside or any(part in PACKAGE_LEFT_OUT for part in place.parts[:-1]) or not source.is_file():
            continue
        if place.name in ("direct_url.json", "RECORD", "INSTALLER", "REQUESTED") or place.suffix == ".pth":
            continue
        yield source, place


def own_files() -> Iterator[tuple[Path, Path]]:
    """The package of this checkout, which the environment may only point to."""
    for source in sorted((ROOT / "sparkdl").rglob("*")):
        if source.is_file() and source.suffix != ".pyc":
            yield source, source.relative_to(ROOT)


def library_files() -> Iterator[tuple[Path, Path]]:
    """The standard library, its compiled modules included."""
    library = Path(sysconfig.get_path("stdlib"))
    for folder, folders, files in os.walk(library):
        here = Path(folder).relative_to(library)
        config = here.parts[:1] and here.parts[0].startswith("config-")
        folders[:] = [] if config else [name for name in folders if name not in (*LIBRARY_LEFT_OUT, "site-packages")]
        for name in [] if config else files:
            if name != "sitecustomize.py" and not name.endswith(".a"):
                yield Path(folder, name), here / name


def with_bytecode(files: Iterator[tuple[Path, Path]]) -> Iterator[tuple[Path, Path]]:
    """The same, each module with its bytecode: without it every new container would compile TensorFlow anew."""
    for source, place in files:
        if place.parent.name == "__pycache__":
            continue
        yield source, place
        cached = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        if source.suffix == ".py" and cached.exists():
            yield cached, place.parent / "__pycache__" / cached.name


def put(source: Path, target: Path) -> None:
    """Link a file, or copy it where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def interpreter(folder: Path) -> None:
    """The interpreter and its shared library; it then finds the library beside itself, wherever that is."""
    base = Path(sys.base_prefix)
    target = folder / "bin" / PYTHON
    target.parent.mkdir(parents=True)
    program = (base / "bin" / PYTHON).read_bytes()
    place = sysconfig.get_config_var("LIBDIR")
    old, new = f"\0{place}\0".encode(), b"\0$ORIGIN/../lib"
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        shared = Path(place) / sysconfig.get_config_var("INSTSONAME")
        if old in program and len(new) < len(old):  # where it looks for the library, as the linker wrote it down
            program = program.replace(old, new.ljust(len(old), b"\0"))
        put(shared, folder / "lib" / shared.name)
    target.write_bytes(program)
    target.chmod(0o755)
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(PYTHON)


def main(folder: Path) -> None:
    """Fill the folder."""
    folder.mkdir(parents=True)
    interpreter(folder)
    library, packages = folder / "lib" / PYTHON, folder / "lib" / PYTHON / "site-packages"
    for source, place in with_bytecode(library_files()):
        put(source, library / place)
    (library / "sitecustomize.py").write_text(SITE)
    for name in requirements():
        for source, place in with_bytecode(package_files(name)):
            if not (packages / place).exists() and place.parts[0] != "sparkdl":
                put(source, packages / place)
    for source, place in with_bytecode(own_files()):
        put(source, packages / place)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
