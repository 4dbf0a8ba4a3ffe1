"""Stages built again from the manifests of a store: what each was, so that what it took can be held against its size.

Such a stage has the key that it was stored under, whatever the code is now. It is there to be asked for its cost.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from bench.stage import Stage
from bench.store import Store

_NOT_FIELDS = {"class", "version", "code", "content"}


class _Lost(Exception):
    """A part of a manifest cannot be understood: another version wrote it, or what it names is gone."""


def rebuilt(store: Store, folders: dict[str, str]) -> Iterator[tuple[Stage, dict[str, Any]]]:
    """Yield each finished stage that can be built again, and its manifest.

    Args:
        store: whose manifests are read.
        folders: digest → folder of the diffusion models that are at hand; a manifest holds no place.
    """
    builder = _Builder({m["key"]: m for m in store.manifests() if "key" in m}, folders)
    for key, manifest in builder.manifests.items():
        try:
            yield builder.stage(key), manifest
        except (_Lost, TypeError, ValueError, LookupError, AttributeError, RecursionError):
            continue  # of another version, or changed by hand


class _Builder:
    def __init__(self, manifests: dict[str, dict[str, Any]], folders: dict[str, str]) -> None:
        self.manifests, self.folders = manifests, folders
        self.built: dict[str, Stage] = {}

    @functools.cached_property
    def classes(self) -> dict[str, type[BaseModel]]:
        """Every kind of model that is known here, by its full name; plugins too."""
        from bench import matrix, registry  # noqa: F401 - the harness's own stages

        registry.methods(), registry.datasets()
        return {f"{c.__module__}.{c.__qualname__}": c for c in _below(BaseModel)}

    def stage(self, key: str) -> Stage:
        """Return the stage behind a manifest."""
        if key not in self.built:
            if key not in self.manifests:
                raise _Lost
            stage = self.value(self.manifests[key].get("identity"))
            if not isinstance(stage, Stage):
                raise _Lost
            stage.__dict__["key"] = key
            self.built[key] = stage
        return self.built[key]

    def value(self, described: Any) -> Any:
        """Return what a part of an identity stands for."""
        if isinstance(described, list):
            return tuple(self.value(v) for v in described)
        if not isinstance(described, dict):
            return described
        if described.keys() == {"stage", "key"}:
            return self.stage(described["key"])
        if "class" not in described:
            return {name: self.value(v) for name, v in described.items()}
        cls = self.classes.get(described["class"])
        if cls is None:
            raise _Lost
        given = {n: self.value(v) for n, v in described.items() if n in cls.model_fields and n not in _NOT_FIELDS}
        if "folder" in cls.model_fields and "folder" not in given and isinstance(described.get("content"), dict):
            digest = described["content"].get("digest")
            if digest is not None and digest not in self.folders:
                raise _Lost
            given |= {} if digest is None else {"folder": self.folders[digest]}
        return cls.model_construct(**given)


def _below(cls: type[BaseModel]) -> Iterable[type[BaseModel]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _below(sub)
