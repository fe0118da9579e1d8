"""Write the options of a job beside its output: `<output>.job.yaml`.

Runs on the driver. The file is itself a job file, which runs the same job again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import yaml

from sparkdl import storage

__all__ = ["record_job", "shown_options"]

HIDDEN = "***"
_SECRET = re.compile("password|passwd|secret|token|credential|access.?key|account.?key", re.IGNORECASE)


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with secrets hidden: values of keys that name a secret, and all values of `env`."""
    return {key: _shown(str(key), value) for key, value in options.items()}


def _shown(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: HIDDEN if key == "env" else _shown(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(key, inner) for inner in value]
    return HIDDEN if _SECRET.search(key) and value is not None else value


def record_job(options: Mapping[str, Any], output: str, *, job: str) -> str:
    """Write the options beside the output, unless the same content is there, and return the file's path."""
    path = f"{storage.absolute(output)}.job.yaml"
    head = f"# What jobs/{job}.py of sparkdl {metadata.version('sparkdl-tf')} made {output} with.\n"
    content = (head + yaml.safe_dump(shown_options(options), sort_keys=False, allow_unicode=True)).encode()
    try:
        same = storage.read_bytes(path) == content
    except FileNotFoundError:
        same = False
    if not same:
        storage.write_atomic(path, content)
    return path
