"""The commands that the command line suggests can be pasted into a shell and mean the same results."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from bench.cli.options import DEFAULT_STORE, Request


@pytest.fixture(autouse=True)
def no_store_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_STORE", raising=False)


def test_defaults_are_left_out() -> None:
    assert Request("demo", None, DEFAULT_STORE).command("report") == "bench report demo"
    assert Request("demo", [], Path("./bench-runs")).command("table", "--notes") == "bench table demo --notes"


def test_changes_and_another_store_are_repeated_and_quoted() -> None:
    request = Request("my matrix.yaml", ["methods=[baseline, smote]", "name=x"], Path("/data/it's mine"))
    words = shlex.split(request.command("explain", "a cell"))
    assert words[:4] == ["bench", "explain", "my matrix.yaml", "a cell"]
    assert words[4:] == ["--set", "methods=[baseline, smote]", "--set", "name=x", "--store", "/data/it's mine"]


def test_other_changes_can_stand_in_for_them() -> None:
    request = Request("demo", ["seeds=[0]"], DEFAULT_STORE)
    assert request.command("run", sets=["seeds=[0,1,2]"]) == "bench run demo --set 'seeds=[0,1,2]'"


def test_the_store_of_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_STORE", "/data/runs")
    assert Request("demo", None, Path("/data/runs")).command("run") == "bench run demo"
    assert Request("demo", None, DEFAULT_STORE).command("run") == "bench run demo --store bench-runs"
