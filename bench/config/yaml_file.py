"""Read YAML files that people write, refuse faults by file and line, and change single values."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import yaml

from bench.config.validation import shown
from bench.errors import ConfigError

_LARGEST_FILE = 1 << 20
# Each use of an alias counts. Nine lines of nested aliases can stand for a thousand million values, and expanding them
# would fill the memory.
_MOST_VALUES = 100_000
_DEEPEST = 40
_HINTS = {
    "found character '\\t'": "indent with spaces, not tabs",
    "but found another document": "one document a file: remove what follows the second '---'",
    "could not determine a constructor": "give a plain number, word, list or mapping",
    "mapping values are not allowed": "put a text that holds ': ' in quotes",
}


class _Loader(yaml.SafeLoader):
    """A safe YAML loader without the usual traps.

    It refuses keys that are given twice and aliases that expand without end, and it never reads a text as a date.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, ())
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        if isinstance(text, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
            raise _Fault(f"text with a character that no file can hold: {shown(text)!a}", node.start_mark)
        # Names of classes are compared in Unicode's composed form. An editor on macOS may write the decomposed one.
        return unicodedata.normalize("NFC", text) if isinstance(text, str) else text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *other` is not a key: it copies entries, and keys written beside it win
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _Fault(f"key {shown(key)} is not text; put it in quotes", key_node.start_mark)
            if key in seen:
                raise _Fault(f"key '{key}' is given twice; give it once", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Fault(yaml.constructor.ConstructorError):
    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(None, None, problem, mark)


def _count(node: yaml.Node, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """Return how many values a node stands for, with aliases expanded.

    Raises:
        _Fault: if the node contains itself, is nested too deeply, or stands for too many values.
    """
    if id(node) in above:
        raise _Fault("an alias stands inside the value that it names, so it never ends", node.start_mark)
    if len(above) > _DEEPEST:
        raise _Fault(f"nested too deeply (at most {_DEEPEST} levels)", node.start_mark)
    if id(node) not in sizes:
        inner = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
        inside = inner if isinstance(node, yaml.CollectionNode) else []
        sizes[id(node)] = 1 + sum(_count(n, sizes, (*above, id(node))) for n in inside)
        if sizes[id(node)] > _MOST_VALUES:
            raise _Fault(f"aliases make this more than {_MOST_VALUES} values; write out fewer", node.start_mark)
    return sizes[id(node)]


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ConfigError: if the text is not YAML or is refused. The message names `where` and the line.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(_message(error, where)) from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply (at most {_DEEPEST} levels)") from error
    except Exception as error:  # PyYAML lets Python's own errors through, e.g. for `!!bool x` or a 5,000-digit number
        raise ConfigError(f"{where}: not YAML: a value cannot be read ({type(error).__name__}: {error})") from error


def _message(error: yaml.YAMLError, where: str) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    hint = next((f"; {advice}" for sign, advice in _HINTS.items() if sign in problem), "")
    return f"{where}{line}: not YAML: {problem}{hint}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: if the file cannot be read or is not a mapping. The message names the file and the line.
    """
    try:
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise ConfigError(f"{path.name}: {size >> 20} MiB; such a file is at most {_LARGEST_FILE >> 20} MiB")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read: {error.strerror}") from error
    raw = parse_yaml(text, path.name)
    if not isinstance(raw, dict):
        got = "nothing" if raw is None else f"a {_KINDS.get(type(raw), type(raw).__name__)}"
        raise ConfigError(f"{path.name}: want a mapping of settings (lines `key: value`), got {got}")
    return raw


_KINDS: dict[type, str] = {list: "list", str: "text", int: "number", float: "number", bool: "true or false"}


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key in `raw`, e.g. `classifier.steps=10` or `datasets.0.n_images=50`. The value is read as YAML.

    Raises:
        ConfigError: if the text is not `key=value`, or if a part of the path leads into a value that is neither a
            mapping nor a list.
    """
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"--set {override}: want key=value, e.g. --set classifier.steps=10")
    try:
        value = parse_yaml(text, "value")
    except ConfigError as error:
        raise ConfigError(f"--set {_shortened(override)}: the value is not YAML ({error})") from error
    *path, last = dotted.split(".")
    at: Any = raw
    for part in path:
        at = _step(at, part, override)
    _step(at, last, override)
    at[int(last) if isinstance(at, list) else last] = value


def _step(at: Any, part: str, override: str) -> Any:
    if isinstance(at, dict):
        inner = at.setdefault(part, {})
    elif isinstance(at, list) and part.isdecimal() and len(part) < 10 and int(part) < len(at):
        inner = at[int(part)]
    else:
        held = f"a list of {len(at)}" if isinstance(at, list) else f"{shown(at)}, not a mapping"
        advice = f"; give 0 to {len(at) - 1}" if isinstance(at, list) and at else ""
        place = f"nothing to set at '{_shortened(part)}'"
        raise ConfigError(f"--set {_shortened(override)}: {place}: there is {held}{advice}")
    return inner


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"
