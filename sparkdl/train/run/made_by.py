"""What made a run: build_model and callbacks by their fingerprints, and the model and callbacks that they gave.

Written by rank 0 when training starts, beside the run's record; compared on the driver. Knows nothing of Keras.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sparkdl import storage
from sparkdl.errors import CheckpointError
from sparkdl.storage.format_version import check_format_version
from sparkdl.train.run.differences import first_difference
from sparkdl.train.run.run_dir import RunDir
from sparkdl.user_code.fingerprint import fingerprint

__all__ = [
    "UNKNOWN_CODE",
    "Code",
    "MadeBy",
    "callbacks_difference",
    "changed_code",
    "code_of",
    "model_difference",
    "read_made_by",
    "weights_difference",
    "write_made_by",
]

FORMAT_VERSION = 1
# Relative to the norm of a variable.
_SAME_WEIGHTS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The fingerprints of what a user gives `fit` as functions; None for what has none."""

    build_model: str | None
    callbacks: str | None

    def is_known(self) -> bool:
        """Whether both have a fingerprint."""
        return self.build_model is not None and self.callbacks is not None


UNKNOWN_CODE = Code(build_model=None, callbacks=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBy:
    """What a run was made by.

    Attributes:
        code: the fingerprints of the functions.
        model: what the model is, by `describe.model_facts`.
        callbacks: what the callbacks are, by `describe.callback_facts`.
        directions: of the model's metrics, by `describe.metric_directions`.
        weights: those that build_model gave, by `describe.weight_facts`; empty where they are not known.
    """

    code: Code
    model: Mapping[str, Any]
    callbacks: Sequence[Mapping[str, Any]]
    directions: Mapping[str, str | None] = field(default_factory=dict)
    weights: Sequence[Sequence[float]] = field(default_factory=list)


def code_of(build_model: object, callbacks: object) -> Code:
    """The fingerprints of the functions that a user gives."""
    return Code(build_model=fingerprint(build_model), callbacks=fingerprint(callbacks))


def read_made_by(path: str) -> MadeBy | None:
    """What `write_made_by` wrote; None where it wrote nothing. Raises CheckpointError for what cannot be read."""
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
        weights=content.get("weights", []),  # runs of before kept none
    )


def write_made_by(path: str, made_by: MadeBy) -> None:
    """Keep what a run was made by."""
    storage.write_atomic(path, json.dumps({"format_version": FORMAT_VERSION, **asdict(made_by)}).encode())


def model_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Where two models, as `model_facts` describes them, differ first; None if they do not.

    Under another version of Keras their variables alone are compared, with the user's own code: each version writes the
    same configuration in its own way. Runs of before knew no code, or no values of the user's own objects.
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
    """Which of the weights that build_model gave are others; None if none is, or it is not known.

    Draws are the same under one version of Keras but for rounding.
    """
    if old.model["keras"] != new.model["keras"] or len(old.weights) != len(new.weights):
        return None
    for (path, *_), one, other in zip(new.model["variables"], old.weights, new.weights, strict=True):
        scale = max(abs(one[0]), abs(other[0]))
        if any(abs(was - now) > _SAME_WEIGHTS * scale for was, now in zip(one, other, strict=True)):
            return f"build_model gives {path!r} other first weights than it did"
    return None


def callbacks_difference(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> str | None:
    """Where two lists of callbacks, as `callback_facts` describes them, differ first; None if they do not."""
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
    """A configuration without the code of lambdas: Keras writes lines and file names with it, `code` knows better."""
    if isinstance(config, list):
        return [_without_lambdas(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "__lambda__":
        return {"class_name": "__lambda__"}
    return {name: _without_lambdas(value) for name, value in config.items()}


def changed_code(run: RunDir, code: Code) -> str | None:
    """Which functions are not those that a run was made by: "build_model", "callbacks", both of them; None for none."""
    made_by = read_made_by(run.code)
    if made_by is None or not (code.is_known() and made_by.code.is_known()):
        return "build_model and callbacks" if made_by is None or code != made_by.code or not code.is_known() else None
    names = [name for name in ("build_model", "callbacks") if getattr(code, name) != getattr(made_by.code, name)]
    return " and ".join(names) or None
