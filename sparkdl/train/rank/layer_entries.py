"""Describe each layer of a model that holds weights or a learned state: its path, its variables, what it depends on.

Runs in rank processes. In a functional model the graph tells which features reach a layer without a layer with weights
between, and which outputs a layer gives in the same way. With other features or labels, the weights of such a layer
would mean something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from sparkdl.model.outputs import flat_outputs, own_output_names
from sparkdl.train.checks.matching import LayerEntry

__all__ = ["entries_of", "is_state", "layer_name"]

_Sources = tuple[tuple[str, str], ...]


def entries_of(model: Any, features: Sequence[str]) -> tuple[list[LayerEntry], dict[str, Any]]:
    """Describe the layers of a model whose inputs are these features; return also the layers by their keys."""
    entries, layers = [], {}
    keys = {id(layer): (key, path) for key, path, layer in _walk(model, (), ())}
    graph = _Graph(keys).of_model(model, features)
    for key, path, layer in _walk(model, (), ()):
        own = own_weights(layer)
        if not own and not is_state(layer):
            continue
        top = next((graph.found[k] for k in _prefixes(key) if k in graph.found), None) if graph is not None else None
        dtype_of = keras.backend.standardize_dtype
        entries.append(
            LayerEntry(
                key=key,
                path="/".join(path),
                variables=tuple((w.name, tuple(w.shape), dtype_of(w.dtype)) for w in own),
                state=_state(layer),
                sources=None if graph is None else (top[0] if top else ()),
                outputs=None if graph is None else (top[1] if top else ()),
            )
        )
        layers[key] = layer
    return entries, layers


def is_state(layer: Any) -> bool:
    """Tell whether a layer has learned from data otherwise than by gradients: Keras' layers with `adapt`."""
    return hasattr(layer, "finalize_state") or hasattr(layer, "save_assets")


def own_weights(layer: Any) -> list[Any]:
    """List the weights of a layer without those of the layers within it."""
    inner = {id(weight) for sub in layer._layers for weight in sub.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def layer_name(name: str, kind: str) -> str:
    """Return a layer's name, without the number if it is Keras' default name for the class: "dense" for "dense_3"."""
    bare = re.sub(r"_\d+$", "", name)
    return bare if bare.replace("_", "") == kind.lower().replace("_", "") else name


def _state(layer: Any) -> tuple[str, str] | None:
    """Describe what a layer has learned beside variables: its class, and its size where shapes depend on it."""
    if not is_state(layer):
        return None
    size = ""
    if getattr(layer, "output_mode", "int") != "int":
        size = str(layer.vocabulary_size() if hasattr(layer, "vocabulary_size") else len(layer.bin_boundaries or ()))
    return type(layer).__name__, size


def _walk(layer: Any, key: tuple[str, ...], path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Yield key, path and layer of every layer within, outer ones first.

    A default name stands in the key by its number among the layers of this name beside it: Keras' own numbers count
    all layers that the process has made.
    """
    counts: dict[str, int] = {}
    seen: set[int] = set()
    for sub in layer._layers:
        if id(sub) in seen:
            continue
        seen.add(id(sub))
        bare = layer_name(sub.name, type(sub).__name__)
        name = sub.name
        if bare.replace("_", "") == type(sub).__name__.lower().replace("_", ""):
            counts[bare] = counts.get(bare, -1) + 1
            name = f"{bare}#{counts[bare]}"
        of_sub = (*key, name), (*path, sub.name)
        yield "/".join(of_sub[0]), of_sub[1], sub
        if not is_state(sub):
            yield from _walk(sub, *of_sub)


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split("/")
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


class _Graph:
    """Find for each layer that a functional graph calls the sources that it takes, and the outputs that it gives.

    Attributes:
        found: by key: sources, each ("feature" or "state", name); and names of outputs.
    """

    def __init__(self, keys: Mapping[int, tuple[str, tuple[str, ...]]]) -> None:
        self.found: dict[str, tuple[_Sources, tuple[str, ...]]] = {}
        self._keys = keys

    def of_model(self, model: Any, features: Sequence[str]) -> _Graph | None:
        """Follow the graph of a model; None for a model without one."""
        graph = _functional(model)
        if graph is None:
            return None
        struct = graph._inputs_struct
        named = struct.items() if isinstance(struct, Mapping) else [(t.name, t) for t in graph.inputs]
        named = [(features[0], graph.inputs[0])] if len(features) == len(graph.inputs) == 1 else list(named)
        self._follow(graph, {id(tensor): (("feature", name),) for name, tensor in named})
        outputs = graph._outputs_struct
        for name, tensor in zip(own_output_names(model, outputs), flat_outputs(outputs), strict=True):
            self._gives(tensor, name)
        return self

    def _follow(self, graph: Any, given: Mapping[int, _Sources]) -> None:
        """Note the sources of each layer that a graph calls; `given`: those of the graph's inputs."""
        for node in (node for depth in graph._nodes_by_depth.values() for node in depth):
            operation = node.operation
            if isinstance(operation, keras.layers.InputLayer):
                continue
            inner = _functional(operation)
            if inner is not None:
                pairs = zip(inner.inputs, node.input_tensors, strict=False)
                self._follow(inner, {id(mine): self._reached(outer, given) for mine, outer in pairs})
            elif id(operation) in self._keys:
                sources = [one for tensor in node.input_tensors for one in self._reached(tensor, given)]
                key = self._keys[id(operation)][0]
                before, outputs = self.found.get(key, ((), ()))
                self.found[key] = (tuple(dict.fromkeys([*before, *sources])), outputs)

    def _reached(self, tensor: Any, given: Mapping[int, _Sources]) -> _Sources:
        """Return the sources of a tensor that no layer with weights lies between, in order."""
        if id(tensor) in given:
            return given[id(tensor)]
        history = tensor._keras_history
        operation, node = history.operation, history.operation._inbound_nodes[history.node_index]
        inner = _functional(operation)
        if inner is not None:
            pairs = zip(inner.inputs, node.input_tensors, strict=False)
            of_inputs = {id(mine): self._reached(outer, given) for mine, outer in pairs}
            return self._reached(inner.outputs[history.tensor_index], of_inputs)
        before = tuple(one for one_in in node.input_tensors for one in self._reached(one_in, given))
        if isinstance(operation, keras.Layer) and is_state(operation):
            return (*before, ("state", self._keys[id(operation)][0]))
        return () if getattr(operation, "weights", None) else before

    def _gives(self, tensor: Any, output: str) -> None:
        """Note the output for the last layers with weights before a tensor."""
        history = tensor._keras_history
        operation, node = history.operation, history.operation._inbound_nodes[history.node_index]
        inner = _functional(operation)
        if inner is not None:
            self._gives(inner.outputs[history.tensor_index], output)
        elif getattr(operation, "weights", None) and id(operation) in self._keys:
            key = self._keys[id(operation)][0]
            sources, outputs = self.found.get(key, ((), ()))
            self.found[key] = (sources, tuple(dict.fromkeys([*outputs, output])))
        else:
            for one_in in node.input_tensors:
                self._gives(one_in, output)


def _functional(model: Any) -> Any:
    """Return the functional graph of a functional or Sequential model; None for a model with its own call."""
    from keras.src.models.functional import Functional

    if isinstance(model, keras.Sequential):
        return model._functional if type(model).call is keras.Sequential.call else None
    return model if isinstance(model, Functional) and type(model).call is Functional.call else None
