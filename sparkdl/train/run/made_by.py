"""Record and compare what a run was made by: fingerprints of the user's functions, and what they returned.

Rank 0 writes it when training starts, beside the run's record; the driver compares it. Knows nothing of Keras.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sparkdl import storage
from sparkdl.differences import first_difference
from sparkdl.errors import CheckpointError
from sparkdl.storage.format_version import check_format_version
from sparkdl.train.run.run_dir import RunDir
from sparkdl.user_code.fingerprint import fingerprint

__all__ = [
    "UNKNOWN_CODE",
    "Code",
    "MadeBy",
    "augment_difference",
    "callbacks_difference",
    "changed_code",
    "code_of",
    "model_difference",
    "read_made_by",
    "weights_difference",
    "write_made_by",
]

FORMAT_VERSION = 1
# The tolerance, relative to the norm of a variable.
_SAME_WEIGHTS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Hold the fingerprints of the functions that a user gives `fit`; None for a function without a fingerprint."""

    build_model: str | None
    callbacks: str | None
    augment: str | None = fingerprint(None)  # older versions knew no such function

    def is_known(self) -> bool:
        """Tell whether all functions have a fingerprint."""
        return None not in (self.build_model, self.callbacks, self.augment)


UNKNOWN_CODE = Code(build_model=None, callbacks=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBy:
    """Describe what a run was made by.

    Attributes:
        code: the fingerprints of the functions.
        model: the description of the model, by `facts.model_facts`.
        callbacks: the description of the callbacks, by `facts.callback_facts`.
        directions: the directions of the model's metrics, by `facts.metric_directions`.
        weights: the description of build_model's first weights, by `facts.weight_facts`; empty if not known.
        augment: the digest of the augment function's code, by `fingerprint.code_digest`; empty without one.
    """

    code: Code
    model: Mapping[str, Any]
    callbacks: Sequence[Mapping[str, Any]]
    directions: Mapping[str, str | None] = field(default_factory=dict)
    weights: Sequence[Sequence[float]] = field(default_factory=list)
    augment: str = ""


def code_of(build_model: object, callbacks: object, augment: object = None) -> Code:
    """Fingerprint the functions that a user gives."""
    return Code(build_model=fingerprint(build_model), callbacks=fingerprint(callbacks), augment=fingerprint(augment))


def read_made_by(path: str) -> MadeBy | None:
    """Read what `write_made_by` wrote; None if the file is missing. Raises CheckpointError if it cannot be read."""
    try:
        content = json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    check_format_version(content, path=path, newest=FORMAT_VERSION, error=CheckpointError)
    return MadeBy(
        code=Code(**content["code"]),
        model=content["model"],
        callbacks=content["callbacks"],
        directions=content["directions"],
        weights=content.get("weights", []),  # older versions wrote no weights
        augment=content.get("augment", ""),
    )


def write_made_by(path: str, made_by: MadeBy) -> None:
    """Write what a run was made by."""
    storage.write_atomic(path, json.dumps({"format_version": FORMAT_VERSION, **asdict(made_by)}).encode())


def model_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Describe the first difference of two models, as `model_facts` describes them; None if they are the same.

    Between two versions of Keras only the variables and the user's code are compared, because each version writes the
    same configuration differently. Older runs recorded no code, or no values of the user's objects.
    """
    both = json.loads(json.dumps([old, new]))  # as a file holds them
    if any("values" not in facts for facts in both):
        both = [{name: part for name, part in facts.items() if name != "values"} for facts in both]
    codes = [facts.pop("code", None) for facts in both]
    knows_code = codes[0] is not None
    if both[0]["keras"] != both[1]["keras"]:
        both = [{"variables": facts["variables"]} for facts in both]
    elif knows_code:
        both = [_without_lambdas(facts) for facts in both]
    return first_difference(both[0], both[1], "model") or (_code_difference(*codes) if knows_code else None)


def weights_difference(old: MadeBy, new: MadeBy) -> str | None:
    """Describe which first weight of build_model has changed; None if all are the same, or it is not known.

    Under one version of Keras random draws are the same except for rounding.
    """
    if old.model["keras"] != new.model["keras"] or len(old.weights) != len(new.weights):
        return None
    for (path, *_), one, other in zip(new.model["variables"], old.weights, new.weights, strict=True):
        scale = max(abs(one[0]), abs(other[0]))
        if any(abs(was - now) > _SAME_WEIGHTS * scale for was, now in zip(one, other, strict=True)):
            return f"build_model gives {path!r} other first weights than it did"
    return None


def augment_difference(old: MadeBy, new: MadeBy) -> str | None:
    """Say that the code of the augment function has changed; None if it is the same."""
    return None if old.augment == new.augment else "the code of augment is another"


def callbacks_difference(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> str | None:
    """Describe the first difference of two lists of callbacks, as of `callback_facts`; None if they are the same."""
    old, new = json.loads(json.dumps([list(old), list(new)]))
    if [one["class"] for one in old] != [one["class"] for one in new]:
        before, now = (", ".join(one["class"] for one in many) or "no callbacks" for many in (old, new))
        return f"there were {before}, there are {now}"
    for one, other in zip(old, new, strict=True):
        name = other["class"]
        if found := first_difference(one["config"], other["config"], name) or _code_difference(
            {name: one["code"]}, {name: other["code"]}
        ):
            return found
    return None


def _code_difference(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    changed = [name for name in (*old, *(n for n in new if n not in old)) if old.get(name) != new.get(name)]
    return f"the code of {changed[0]} is another" if changed else None


def _without_lambdas(config: Any) -> Any:
    """Remove the code of lambdas from a configuration: Keras' form has lines and file names; `code` is compared."""
    if isinstance(config, list):
        return [_without_lambdas(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "__lambda__":
        return {"class_name": "__lambda__"}
    return {name: _without_lambdas(value) for name, value in config.items()}


def changed_code(run: RunDir, code: Code) -> str | None:
    """Name the functions that may have changed since a run, as "build_model and callbacks"; None if none has."""
    made_by = read_made_by(run.code)
    before = UNKNOWN_CODE if made_by is None else made_by.code
    names = [name for name in ("build_model", "callbacks", "augment") if getattr(code, name) != getattr(before, name)]
    if not (code.is_known() and before.is_known()):
        names = ["build_model", "callbacks", *(["augment"] if code.augment != UNKNOWN_CODE.augment else [])]
    return " and ".join(names) or None
