"""Import large libraries without their optional imports, and without collecting garbage."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from sparkdl.errors import LaunchError

__all__ = [
    "horovod_problem",
    "keras_backend",
    "load_libraries",
    "load_tensorflow",
    "missing_horovod",
    "without_optional_imports",
]

BUILD_HOROVOD = (
    "build it for the TensorFlow that is installed (docs/install.md; for GPUs too): "
    "pip install 'setuptools<70' wheel packaging 'cmake<4' && "
    "HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 "
    "HOROVOD_WITH_GLOO=1 CXXFLAGS=\"'-DTENSORFLOW_VERSION=(__LINE__==23?0:2018001000)'\" "
    "pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps horovod==0.28.1"
)
# Lines of TensorFlow about this processor, as `grep -E` takes them.
_NOTES = (
    "^(WARNING: All log messages before absl::Init|I[0-9]{4} .* (port|cpu_feature_guard)\\.cc:|To enable the following)"
)
_GREP_LIMIT_S = 10


class _Deferred(ModuleType):
    """Stand in for a module; import it when one of its names is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        for imported, module in list(sys.modules.items()):
            if isinstance(module, _Deferred):
                del sys.modules[imported]
        return getattr(importlib.import_module(self.__name__), name)


def _stand_ins() -> dict[str, ModuleType | None]:
    """Modules that Keras imports if they are installed, and that a rank or a Spark worker hardly ever uses.

    Keras imports scikit-learn to derive its wrappers from scikit-learn's classes: hidden, it costs no time, and the
    wrappers say that they need it. Keras draws with Matplotlib: deferred, it is imported when Keras first draws.
    Together the two cost 2.1 s of a core and 83 MiB of memory in each process (Keras 3.15).
    """
    matplotlib = _Deferred("matplotlib")
    parts = {name: _Deferred(f"matplotlib.{name}") for name in ("patches", "pyplot")}
    vars(matplotlib).update(parts)
    return {"sklearn": None, "matplotlib": matplotlib, **{module.__name__: module for module in parts.values()}}


@contextlib.contextmanager
def without_optional_imports() -> Iterator[None]:
    """Within the block, do not import what Keras imports only if it is installed, unless it was imported before."""
    added = {name: module for name, module in _stand_ins().items() if name.partition(".")[0] not in sys.modules}
    sys.modules.update(added)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in added.items():
            if sys.modules.get(name, name) is module:  # nothing has used the module within the block
                del sys.modules[name]


def keras_backend() -> str:
    """Return the backend that Keras would choose at its import: from KERAS_BACKEND, else keras.json, else TensorFlow.

    See https://keras.io/getting_started/#configuring-your-backend.
    """
    if chosen := os.environ.get("KERAS_BACKEND"):
        return chosen
    folder = os.environ.get("KERAS_HOME") or os.path.expanduser(os.path.join("~", ".keras"))
    try:
        with open(os.path.join(folder, "keras.json")) as file:
            return str(json.load(file)["backend"])
    except (OSError, ValueError, LookupError, TypeError):
        return "tensorflow"


def missing_horovod() -> str:
    """Return that Horovod is not installed, with the way out, in one line; "" if it is."""
    return "" if importlib.util.find_spec("horovod") else f"Horovod is not installed; {BUILD_HOROVOD}"


def horovod_problem() -> str:
    """Return why Horovod cannot work with the installed TensorFlow, with the way out, in one line; "" if it can.

    Horovod notes the TensorFlow that it was compiled for in its `metadata.json`. With another one it loads by chance at
    best.
    """
    if missing := missing_horovod():
        return missing
    import horovod
    from tensorflow.version import VERSION

    with open(os.path.join(os.path.dirname(horovod.__file__), "metadata.json")) as file:
        built_for = json.load(file).get("tensorflow")
    if not built_for:
        return f"Horovod was built without TensorFlow; {BUILD_HOROVOD}"
    if built_for != VERSION:
        return f"Horovod was built for TensorFlow {built_for}, and this is TensorFlow {VERSION}; {BUILD_HOROVOD}"
    return ""


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Within the block, pass stderr through a filter that drops TensorFlow's notes on this processor.

    TensorFlow 2.21 writes the notes at its import, before it reads TF_CPP_MIN_LOG_LEVEL. The filter is a process of its
    own, so that nothing is lost if the import aborts this process; it ends when nobody can write to it.
    """
    with contextlib.ExitStack() as opened:
        try:
            stderr = os.dup(2)
            opened.callback(os.close, stderr)
            command = ["grep", "--text", "--invert-match", "--extended-regexp", _NOTES]
            grep = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, env={**os.environ, "LC_ALL": "C"})
        except OSError:  # stderr is closed, or grep is missing: nothing is filtered
            yield
            return
        os.dup2(grep.stdin.fileno(), 2)  # type: ignore[union-attr]
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            with contextlib.suppress(subprocess.TimeoutExpired):
                grep.communicate(timeout=_GREP_LIMIT_S)


def load_tensorflow() -> None:
    """Import TensorFlow without the notes that it writes to stderr; its errors are written."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_notes():
        import tensorflow  # noqa: F401


def load_libraries() -> None:
    """Load TensorFlow, Horovod and Keras in a rank, and exclude their objects from garbage collection.

    That halves the time of the import, which is most of a short run's time, on every core of a host at once. The
    libraries make a million objects that stay. Otherwise Python would search these objects again and again, during the
    import, while the rank trains, and at its end: 2 s of a core in all.

    Raises LaunchError where Horovod is missing, or was built for another TensorFlow.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        with without_optional_imports():
            load_tensorflow()
            if problem := horovod_problem():
                raise LaunchError(problem)
            import horovod.tensorflow  # noqa: F401
            import keras  # noqa: F401
    finally:
        gc.freeze()
        if collected:
            gc.enable()
