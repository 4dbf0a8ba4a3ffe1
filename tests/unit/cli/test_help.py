"""`bench --help` groups the verbs, and each verb's help ends with an example that can be typed."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bench.cli.main import HEADINGS, app

GROUP: Any = typer.main.get_command(app)


def help_of(*arguments: str) -> str:
    return CliRunner().invoke(app, [*arguments, "--help"], terminal_width=80).stdout


def test_every_verb_stands_under_exactly_one_heading() -> None:
    text, found = help_of(), []
    for heading in HEADINGS:
        (section,) = re.findall(rf"^{heading}:\n((?:  .*\n)+)", text, re.M)
        found += [line.split()[0] for line in section.splitlines()]
    assert sorted(found) == sorted(GROUP.commands)
    assert len(found) == 18
    assert text.count("...") == 1, "a verb's first sentence fits its line; the usage has COMMAND [ARGS]..."


@pytest.mark.parametrize("verb", sorted(GROUP.commands))
def test_the_help_of_a_verb_ends_with_an_example_that_parses(verb: str) -> None:
    last = help_of(verb).rstrip().splitlines()[-1]
    label, _, example = last.strip().partition(": ")
    command, named, *arguments = shlex.split(example)
    assert (label, command, named) == ("example", "bench", verb)
    GROUP.commands[verb].make_context(verb, arguments)  # refuses what is missing, not there or not allowed


@pytest.mark.parametrize("verb", sorted(GROUP.commands))
def test_every_option_is_explained_in_a_sentence(verb: str) -> None:
    assert GROUP.commands[verb].help
    for parameter in GROUP.commands[verb].params:
        assert re.fullmatch(r"[A-Z].*(\.|\.\.\.)", parameter.help), parameter.name


@pytest.mark.parametrize("verb", sorted(GROUP.commands))
def test_the_help_of_an_option_names_no_option_that_the_verb_lacks(verb: str) -> None:
    parameters = GROUP.commands[verb].params
    have = {name for parameter in parameters for name in parameter.opts}
    for parameter in parameters:
        assert set(re.findall(r"--[a-z-]+", parameter.help)) <= have, parameter.name
