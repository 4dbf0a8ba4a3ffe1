"""What decides how long one image takes, beside the kind of stage: networks, and the side of the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bench.pipeline.stage import Stage

Deciders = frozenset[tuple[str, str]]

# Settings of these names, of a stage or of one below it. Two computations are compared only if all of them are equal.
_NAMES = ("architecture", "image_px", "extractor")


class DecidersOfStages:
    """Finds what decides the cost of stages; each stage is looked at once, however many stand on it."""

    def __init__(self) -> None:
        """Begin with no stage."""
        self._found: dict[str, Deciders] = {}

    def __call__(self, stage: Stage) -> Deciders:
        """Return names and values of the settings that decide what an image costs `stage`."""
        if stage.key not in self._found:
            self._found[stage.key] = _united(_own(stage.identity), stage.inputs(), self)
        return self._found[stage.key]


class DecidersOfManifests:
    """Finds the same in manifests, which hold the settings of their own stage and the keys of its inputs."""

    def __init__(self) -> None:
        """Begin with no manifest."""
        self._own: dict[str, tuple[Deciders, list[str]]] = {}
        self._found: dict[str, Deciders] = {}

    def add(self, manifest: Mapping[str, Any]) -> None:
        """Take note of a manifest. All of a store must be added before the first question."""
        self._own[str(manifest.get("key"))] = _own(manifest.get("identity")), list(manifest.get("inputs") or ())

    def __call__(self, key: str) -> Deciders:
        """Return names and values of the settings that decided what an image cost the stage of this key."""
        if key not in self._found:
            own, inputs = self._own.get(key, (frozenset(), []))
            self._found[key] = own  # so that a manifest that was changed to stand on itself ends the search
            self._found[key] = _united(own, inputs, self)
        return self._found[key]


def _united(own: Deciders, inputs: Iterable[Any], of_input: Callable[[Any], Deciders]) -> Deciders:
    return own.union(*(of_input(below) for below in inputs))


def _own(identity: Any) -> Deciders:
    return frozenset(_pairs(identity))


def _pairs(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield the settings in the JSON tree of an identity that decide, each by its name; a model counts by its class."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name in _NAMES and value is not None:
                yield name, str(value.get("class") if isinstance(value, dict) else value)
            yield from _pairs(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _pairs(value)
