"""What a saved workspace or report names of runs, read from its JSON as W&B's own site would read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.privacy.border import Payload
from bench.privacy.media import Table

_RUN = {"displayName", "createdAt", "name"}  # what every run has


@dataclass
class Held:
    """What runs hold: names of their configuration, of their summary, of what they log, and of columns of tables."""

    config: set[str] = field(default_factory=set)
    summary: set[str] = field(default_factory=set)
    logged: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)

    @classmethod
    def by(cls, payloads: Mapping[str, Payload]) -> Held:
        held = cls()
        for sent in payloads.values():
            held.config |= {name for name, value in sent.config.items() if value is not None}
            held.summary |= {*sent.summary, *sent.media}
            held.logged |= {name for row in sent.rows() for name in row}
            tables = (medium for medium in sent.media.values() if isinstance(medium, Table))
            held.columns |= {name for table in tables for name in table.columns}
        return held

    @classmethod
    def at(cls, runs: Iterable[Mapping[str, Any]]) -> Held:
        """Return what a server's runs hold."""
        held = cls()
        for run in runs:
            held.config |= {name for name, value in run["config"].items() if value is not None}
            held.summary |= set(run["summary"])
            held.logged |= {name for row in run["history"].values() for name in row}
        return held

    def lacks(self, spec: Any) -> set[str]:
        """Return what a specification names and no run has."""
        there = {
            "config": self.config,
            "summary": self.summary,
            "logged": self.logged | self.summary,
            "run": _RUN,
            "column": self.columns,
        }
        return {f"{part}:{name}" for part, name in named(spec) if name not in there[part]}


def named(spec: Any) -> set[tuple[str, str]]:
    """Return the part of a run and the name in it, for everything that a specification names."""
    return set(_walk(spec))


def _walk(found: Any) -> Iterator[tuple[str, str]]:
    if isinstance(found, list):
        for one in found:
            yield from _walk(one)
    if not isinstance(found, dict):
        return
    if found.keys() == {"section", "name"}:  # of a filter, a grouping, an order
        yield _accessor(f"{found['section']}:{found['name']}")
    if found.get("name") == "tableKey":  # of a chart made of a table
        yield "summary", found["value"]
    if found.get("nodeType") == "const" and found.get("type") == "string":  # of a query panel
        yield "summary", found["val"]
    for key, value in found.items():
        yield from _NAMING[key](value) if key in _NAMING else _walk(value)


def _axis(name: str) -> list[tuple[str, str]]:
    if name.startswith("_"):  # W&B's own, such as `_step`
        return []
    return [_accessor(name) if ":" in name else ("logged", name)]


def _accessor(text: str) -> tuple[str, str]:
    section, _, name = text.partition(":")
    assert section in ("config", "summary", "run"), text
    if section == "config":
        assert name.endswith(".value"), text
    return section, name.removesuffix(".value")


_NAMING: dict[str, Callable[[Any], list[tuple[str, str]]]] = {
    "metrics": lambda names: [("logged", name) for name in names],
    "mediaKeys": lambda names: [("summary", name) for name in names],
    "fieldSettings": lambda columns: [("column", name) for name in columns.values()],
    "targetKey": lambda name: [("summary", name)],
    "groupBy": lambda name: [_accessor(f"config:{name}")],
    **dict.fromkeys(("columnPinned", "columnVisible"), lambda names: [_accessor(name) for name in names]),
    **dict.fromkeys(("xAxis", "yAxis", "zAxis", "accessor"), _axis),
}
