"""Fingerprint the code of the user's classes and functions in a model, so that edited code is seen to be other code.

Made on the driver, compared in Spark workers. Modules are found and read, never imported here. The fingerprint of an
installed package covers the files of its installation; that of another module all the user's modules that it imports.
"""

from __future__ import annotations

import importlib
import logging
import pickletools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparkdl.errors import ModelError
from sparkdl.model.custom_objects import is_importable
from sparkdl.user_code.edits import edited_modules
from sparkdl.user_code.fingerprint import import_name
from sparkdl.user_code.source import is_library, module_digest, source_digests

__all__ = ["OwnCode", "check_code", "own_code"]

log = logging.getLogger(__name__)

# The modules that this process has imported for models, with the fingerprint of their source at that time.
_IMPORTED: dict[str, str] = {}
# Edited modules, with the fingerprints of their sources, about which a warning was logged.
_WARNED: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCode:
    """Identify the user's code that a model needs.

    Attributes:
        objects: each class and function that was given, by name, with its module and its name there.
        modules: the modules that hold these objects, and the modules that those import, each with the fingerprint of
            its source.
        is_named: whether objects and modules identify all of the code. Classes of `__main__`, of a notebook or inside
            of functions have no name that another process knows.
    """

    objects: tuple[tuple[str, str], ...] = ()
    modules: tuple[tuple[str, str], ...] = ()
    is_named: bool = True


def own_code(
    saved: Mapping[str, str | None], given: Mapping[str, Any], pickled: bytes, *, import_modules: bool
) -> OwnCode:
    """Find the user's code that loading a model needs.

    Args:
        saved: the names of the model's custom objects with their modules, as in its signature.
        given: the caller's custom objects by name.
        pickled: the given objects, as they travel to workers.
        import_modules: objects that were not given are imported from the modules in `saved` (`safe_mode=False`).
    """
    importlib.invalidate_caches()  # a module may just have been written
    objects = {name: import_name(found) for name, found in given.items()}
    roots = {reference.split(":")[0] for reference in objects.values() if reference is not None}
    if import_modules:
        # Keras finds no other name in the model: names without a module, or in safe mode, are not needed to predict.
        found = (module for name, module in saved.items() if not {name, name.rsplit(">", 1)[-1]} & given.keys())
        roots |= {module for module in found if is_importable(module)}
    sources = _sources(roots)
    is_named = None not in objects.values() and all(module_digest(root) is not None for root in roots)
    # A pickled object that travels by value holds the names of the modules that it uses.
    texts = {value for _, value, _ in pickletools.genops(pickled) if isinstance(value, str)}
    sources |= _sources({name for name in texts if name in sys.modules and not is_library(name)})
    _warn_of_edits(sources)
    return OwnCode(
        objects=tuple(sorted((name, reference) for name, reference in objects.items() if reference is not None)),
        modules=tuple(sorted(sources.items())),
        is_named=is_named,
    )


def _warn_of_edits(sources: Mapping[str, str]) -> None:
    """Warn of modules that were edited after this process, the driver, imported them: once for each edit."""
    for module in edited_modules(sources):
        if (module, sources[module]) not in _WARNED:
            _WARNED.add((module, sources[module]))
            log.warning(
                "module %s was edited after this process imported it: Spark workers score with the file as it is now, "
                "and this process goes on with the code of before; restart it, or importlib.reload(%s) and take its "
                "classes and functions anew",
                *(module, module),
            )


def check_code(code: OwnCode, model_dir: str) -> None:
    """Check that this process scores with the driver's code; to be called when the code is imported.

    Raises ModelError if the file of a module that this process has imported differs from the driver's, or differed at
    the time of the import.
    """
    for module, expected in code.modules:
        if module not in sys.modules:
            continue
        if module_digest(module) != expected:
            raise ModelError(
                f"module {module}, which the model in {model_dir} needs, is not what it was on the driver when the "
                "function was made; make the function again, or give all hosts the same file"
            )
        if _IMPORTED.setdefault(module, expected) != expected:
            raise ModelError(
                f"this worker imported module {module} before it was edited; run the query again (this worker ends "
                "now, and a new one imports it anew), or set spark.python.worker.reuse=false"
            )


def _sources(roots: set[str]) -> dict[str, str]:
    """Fingerprint the sources of these modules and of the user's modules that they import, directly or not."""
    own = {name for name in source_digests(roots) if not is_library(name)}
    digests = {name: module_digest(name) for name in own | roots}
    return {name: digest for name, digest in digests.items() if digest is not None}
