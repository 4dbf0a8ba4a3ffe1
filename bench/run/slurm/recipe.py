"""Write a stage as plain JSON, and build it again from today's code.

A job gets the path of such a file instead of a pickled stage: the file survives a change of the code, and reading it
shows whether the stage still has the same key.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.errors import StageError
from bench.files import read_json, write_json
from bench.pipeline.stage import Stage


def write_recipe(path: Path, stage: Stage) -> None:
    """Write a stage and everything below it, each once.

    Raises:
        StageError: if reading the file gives another stage.
    """
    known: dict[str, Any] = {}
    write_json(path, {"target": _encode(stage, known)["stage"], "stages": known})
    read_recipe(path, stage.key)  # refuse here, before a job is submitted that could not read it


def read_recipe(path: Path, key: str) -> Stage:
    """Return the stage in a file, built from today's code.

    Raises:
        StageError: if the file cannot be read, or today's code gives the stage another key than `key`.
    """
    found = read_json(path)
    if found is None:
        raise StageError(f"{path} cannot be read; run `bench run` again")
    try:
        stage = _decode({"stage": found["target"]}, found["stages"], {})
    except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise StageError(
            f"the code has changed since this job was submitted ({said}); run `bench run` again"
        ) from error
    if not isinstance(stage, Stage) or stage.key != key:
        raise StageError(f"the code has changed since this job was submitted: {key[:8]} now has another key; run again")
    return stage


def _encode(value: Any, known: dict[str, Any]) -> Any:
    if isinstance(value, BaseModel):
        if isinstance(value, Stage) and value.key in known:
            return {"stage": value.key}
        fields = {name: _encode(getattr(value, name), known) for name in type(value).model_fields}
        body = {"model": f"{type(value).__module__}:{type(value).__qualname__}", "fields": fields}
        if not isinstance(value, Stage):
            return body
        known[value.key] = body
        return {"stage": value.key}
    if isinstance(value, dict):
        return {"map": [[_encode(k, known), _encode(v, known)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_encode(v, known) for v in value]
    return str(value) if isinstance(value, Path) else value


def _decode(value: Any, known: dict[str, Any], built: dict[str, Stage]) -> Any:
    if isinstance(value, list):
        return [_decode(v, known, built) for v in value]
    if not isinstance(value, dict):
        return value
    if "map" in value:
        return {_decode(k, known, built): _decode(v, known, built) for k, v in value["map"]}
    if "stage" not in value:
        return _build(value, known, built)
    key = value["stage"]
    if key not in built:
        built[key] = _build(known[key], known, built)
    return built[key]


def _build(body: dict[str, Any], known: dict[str, Any], built: dict[str, Stage]) -> Any:
    module, _, name = body["model"].partition(":")
    cls = getattr(importlib.import_module(module), name)
    if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
        raise TypeError(f"{body['model']} is neither a stage nor settings")
    return cls.model_validate({k: _decode(v, known, built) for k, v in body["fields"].items()})
