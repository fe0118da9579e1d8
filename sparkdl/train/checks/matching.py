"""Decide which layers of a new model take the weights of which layers of a trained one.

Pure; used in ranks. A layer that takes features, or gives an output, without a layer with weights between depends on
what those mean: it takes weights only where features are encoded, and the label is, as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LayerEntry", "Matched", "match_layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEntry:
    """Describe a layer with weights or a learned state.

    Attributes:
        key: its path for comparison, in which default names stand by their number among those beside: "base/dense#1".
        path: its path as the model names it.
        variables: name, shape and dtype of each weight.
        state: class and size of a state that `adapt` learns; None for other layers.
        sources: the features and layers with a state that reach it with no weights between, each ("feature" or "state",
            name or key); None where the model's graph is not known.
        outputs: the names of the outputs that it gives with no weights after it; None where that is not known.
    """

    key: str
    path: str
    variables: tuple[tuple[str, tuple[int, ...], str], ...] = ()
    state: tuple[str, str] | None = None
    sources: tuple[tuple[str, str], ...] | None = ()
    outputs: tuple[str, ...] | None = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Hold the decision.

    Attributes:
        pairs: by the key of a layer of the new model, the key of the trained one's layer whose weights it takes.
        loaded: the paths of these layers in the new model.
        not_loaded: by the path of each other layer of the new model, the reason.
        unused: the paths of the layers of the trained model that no layer takes.
    """

    pairs: dict[str, str] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    not_loaded: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return as JSON the paths of layers: `loaded`, `not_loaded` with reasons, `unused`."""
        return {"loaded": self.loaded, "not_loaded": self.not_loaded, "unused": self.unused}


def match_layers(
    old: Sequence[LayerEntry],
    new: Sequence[LayerEntry],
    *,
    features: Mapping[str, str],
    learned: tuple[Mapping[str, str], Mapping[str, str]],
) -> Matched:
    """Match layers by their keys; one that the user named also by its name alone, where that is there once in each.

    Args:
        old, new: the layers of the trained and the new model, in order.
        features: what differs in each feature that is encoded otherwise, or that one of the models lacks.
        learned: what each output of the trained and of the new model learns, by its name.
    """
    there = {entry.key: entry for entry in old}
    candidates = {entry.key: _candidate(entry, there, old, new) for entry in new}
    matched = Matched()
    # Layers with a state first: those that they feed depend on them.
    for entry in sorted(new, key=lambda one: one.state is None):
        found = candidates[entry.key]
        reason = "no layer there has its name"
        if found is not None:
            reason = _obstacle(found, entry, matched.pairs, features=features, learned=learned)
        if found is not None and not reason:
            matched.pairs[entry.key] = found.key
        else:
            matched.not_loaded[entry.path] = reason
    matched.loaded.extend(entry.path for entry in new if entry.key in matched.pairs)
    taken = set(matched.pairs.values())
    matched.unused.extend(entry.path for entry in old if entry.key not in taken)
    return matched


def _candidate(
    entry: LayerEntry, there: Mapping[str, LayerEntry], old: Sequence[LayerEntry], new: Sequence[LayerEntry]
) -> LayerEntry | None:
    if entry.key in there:
        return there[entry.key]
    name = entry.key.rpartition("/")[2]
    here = [other for other in new if other.key.rpartition("/")[2] == name]
    found = [other for other in old if other.key.rpartition("/")[2] == name]
    return found[0] if "#" not in name and len(here) == len(found) == 1 else None


def _obstacle(
    old: LayerEntry,
    new: LayerEntry,
    pairs: Mapping[str, str],
    *,
    features: Mapping[str, str],
    learned: tuple[Mapping[str, str], Mapping[str, str]],
) -> str:
    """Say why a layer does not take the weights of the one of its name; "" if it does."""
    if difference := _variables_differ(old, new):
        return difference
    if old.state != new.state:
        return f"it is {_said(old.state)} there and {_said(new.state)} here"
    if new.sources is None or old.sources is None:
        return ""  # nothing depends on a difference: no feature or label differs, or the model was refused
    before, now = ([name for kind, name in one.sources or () if kind == "feature"] for one in (old, new))
    if before != now:
        return f"it takes the features {', '.join(before) or 'of no input'} there and {', '.join(now) or 'none'} here"
    for kind, name in new.sources:
        if kind == "feature" and name in features:
            return f"feature {name!r} is encoded otherwise: {features[name]}"
        if kind == "state" and name not in pairs:
            return f"layer {name!r} before it does not take its state"
    if [pairs.get(name) for kind, name in new.sources if kind == "state"] != [
        n for k, n in old.sources if k == "state"
    ]:
        return "other layers with a state lie before it"
    before, now = ([of[name] for name in one.outputs or ()] for one, of in zip((old, new), learned, strict=True))
    if now and before != now:
        return f"it gives {' and '.join(now)} here and {' and '.join(before) or 'no output'} there"
    return ""


def _variables_differ(old: LayerEntry, new: LayerEntry) -> str:
    if [name for name, _, _ in old.variables] != [name for name, _, _ in new.variables]:
        return "it has other variables there"
    for (name, shape, dtype), (_, own_shape, own_dtype) in zip(old.variables, new.variables, strict=True):
        if shape != own_shape:
            return f"its {name} has shape {shape} there and {own_shape} here"
        if dtype != own_dtype and not ("float" in dtype and "float" in own_dtype):
            return f"its {name} is {dtype} there and {own_dtype} here"
    return ""


def _said(state: tuple[str, str] | None) -> str:
    return "a layer without a state" if state is None else f"{state[0]} of size {state[1] or 'any'}"
