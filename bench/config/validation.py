"""Build models from the settings that people write, and turn pydantic's errors into one readable line.

The line names the place in the file, the value that was given, and what is allowed there.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bench.errors import ConfigError, listed, nearest

T = TypeVar("T", bound=BaseModel)

_LARGEST = 2**63 - 1  # numpy's int64 and file offsets hold no larger number


def build(cls: type[T], settings: dict[str, Any], where: str) -> T:
    """Return `cls(**settings)`.

    Raises:
        ConfigError: if the settings do not fit. The line names the field, the value given and what is allowed.
    """
    try:
        built = cls.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(one_line(error, where, cls, settings)) from error
    _refuse_misread(settings, built, where)
    return built


def _refuse_misread(given: Any, read: Any, where: str, annotation: Any = None) -> None:
    """Refuse values that pydantic accepts but changes (`true` into 1, 1.0 into true), and too large numbers.

    `given` is what the file says, `read` is what the model made of it, and `annotation` is of the field around it.

    Raises:
        ConfigError: naming the place, the value and what is allowed.
    """
    # pydantic's strict mode would refuse these too, but also a list where a tuple is meant, and YAML has only lists.
    if isinstance(given, Mapping):
        for name, value in given.items():
            inner, around = _item(read, name), annotation
            if isinstance(read, BaseModel):
                field = type(read).model_fields.get(str(name))
                inner, around = getattr(read, name, None), field and field.annotation
            _refuse_misread(value, inner, f"{where}.{_brief(name)}", around)
    elif isinstance(given, (list, tuple)) and isinstance(read, (list, tuple)):
        for i, (value, inner) in enumerate(zip(given, read, strict=False)):
            _refuse_misread(value, inner, f"{where}.{i}", annotation)
    elif isinstance(given, bool) and isinstance(read, (int, float)) and not isinstance(read, bool):
        text = ", or text in quotes" if _takes_text(annotation) else ""
        raise ConfigError(f"{where}: want a number{text}, got {shown(given)}")
    elif isinstance(read, bool) and not isinstance(given, bool):
        raise ConfigError(f"{where}: want true or false, got {shown(given)}")
    elif isinstance(read, int) and abs(read) > _LARGEST:
        raise ConfigError(f"{where}: want a number between -2^63 and 2^63, got {shown(read)}")


def _takes_text(annotation: Any) -> bool:
    """Tell whether a value, or a value of a list or mapping, may be text; names of a mapping do not count."""
    inner = get_args(annotation)[get_origin(annotation) is dict :]
    return annotation is str or any(map(_takes_text, inner))


def _item(read: Any, name: Any) -> Any:
    return read.get(name) if isinstance(read, Mapping) else None


def one_line(error: ValidationError, where: str, cls: type[BaseModel], settings: Any = None) -> str:
    """Return a pydantic error as one line: the place, the value given, what is allowed, and the nearest valid name."""
    found = error.errors(include_url=False)
    first = found[0]
    if first["type"] == "missing":  # a field is most often missing because its name is misspelt: report that name
        first = next((e for e in found if e["type"] == "extra_forbidden"), first)
    place = ".".join([where, *map(_brief, _path(first, settings))])
    others = {tuple(_path(e, settings)) for e in found} - {tuple(_path(first, settings))}
    more = f" (and {len(others)} more)" if others else ""
    owners = _models_at(cls, first["loc"][:-1])
    allowed = list(dict.fromkeys(name for model in owners for name in model.model_fields))
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown setting{nearest(str(first['loc'][-1]), allowed)} (have: {listed(allowed)}){more}"
    arms = [e for e in found if _path(e, settings) == _path(first, settings)]
    want, hint = _want(first)
    lists = first["type"] == "literal_error" and any(e["type"] == "tuple_type" for e in arms)
    if len(arms) > 1 and (lists or first["type"].endswith("_type")):
        # a union has one error per arm: name all types it allows
        wants = dict.fromkeys(_want(e)[0].removeprefix("want ") for e in arms)
        return f"{place}: want {', '.join(wants)}{_got(first)}{hint}{more}"
    return f"{place}: {want}{_got(first)}{hint}{more}"


def told(error: ValidationError) -> str:
    """Return the first fault of a single value: what is allowed, and what was given."""
    first = error.errors(include_url=False)[0]
    want, hint = _want(first)
    return f"{want}{_got(first)}{hint}"


def _path(error: ErrorDetails, settings: Any) -> list[int | str]:
    """Return the path of a fault in the file, without the names that pydantic adds for the arms of a union."""
    path: list[int | str] = []
    at = settings
    for part in error["loc"]:
        if isinstance(at, Mapping) and (part in at or error["type"] == "missing"):
            at = at.get(part)
        elif isinstance(at, Sequence) and not isinstance(at, str) and isinstance(part, int):
            at = at[part] if part < len(at) else None
        elif settings is not None:
            continue
        path.append(part)
    return path


def _brief(part: Any) -> str:
    text = str(part)
    return text if len(text) <= 60 else f"{text[:60]}…"


def shown(value: Any) -> str:
    """Return a value, shortened, as it would be written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return _repr.repr(value)


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def _got(error: ErrorDetails) -> str:
    return "" if error["type"] in ("missing", "value_error", "union_tag_invalid") else f", got {shown(error['input'])}"


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


_WANTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "missing": lambda c: "is not given; it has no default",
    "int_type": lambda c: "want a whole number",
    "int_parsing": lambda c: "want a whole number",
    "int_from_float": lambda c: "want a whole number",
    "int_parsing_size": lambda c: "want a whole number of fewer digits",
    "float_type": lambda c: "want a number",
    "float_parsing": lambda c: "want a number",
    "finite_number": lambda c: "want a finite number",
    "bool_type": lambda c: "want true or false",
    "bool_parsing": lambda c: "want true or false",
    "string_type": lambda c: "want text (a number or a yes in quotes)",
    "list_type": lambda c: "want a list, e.g. [a, b]",
    "tuple_type": lambda c: "want a list, e.g. [a, b]",
    "dict_type": lambda c: "want a mapping (lines `key: value`)",
    "model_type": lambda c: "want a mapping (lines `key: value`)",
    "model_attributes_type": lambda c: "want a mapping (lines `key: value`)",
    "union_tag_not_found": lambda c: f"want a mapping with {c['discriminator']}",
    "greater_than_equal": lambda c: f"want {_plain(c['ge'])} or more",
    "greater_than": lambda c: f"want more than {_plain(c['gt'])}",
    "less_than_equal": lambda c: f"want {_plain(c['le'])} or less",
    "less_than": lambda c: f"want less than {_plain(c['lt'])}",
    "multiple_of": lambda c: f"want a multiple of {c['multiple_of']}",
    "too_short": lambda c: f"want {c['min_length']} or more items",
    "too_long": lambda c: f"want {c['max_length']} or fewer items",
    "string_too_short": lambda c: f"want {c['min_length']} or more characters",
    "string_too_long": lambda c: f"want {c['max_length']} or fewer characters",
    "string_pattern_mismatch": lambda c: f"want text that matches {c['pattern']}",
}


def _want(error: ErrorDetails) -> tuple[str, str]:
    """Return what is allowed, in our own words if there is an entry in `_WANTS`, and a hint at the nearest name."""
    context: dict[str, Any] = error.get("ctx") or {}
    if error["type"] == "literal_error":
        expected = context["expected"]
        return f"want {expected}", nearest(str(error["input"]), _quoted(expected))
    if error["type"] == "union_tag_invalid":
        allowed, tag = _quoted(context["expected_tags"]), str(context["tag"])
        return (
            f"no {context['discriminator'][1:-1]} '{_brief(tag)}'{nearest(tag, allowed)} (have: {listed(allowed)})",
            "",
        )
    if error["type"] in _WANTS:
        return _WANTS[error["type"]](context), ""
    message = error["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}", ""


def _quoted(text: str) -> list[str]:
    return text.split("'")[1::2]


def _models_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """Return the model classes that are allowed at a location inside `cls`."""
    models = [cls]
    for part in loc:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = [model for info in fields for model in models_in(info.annotation)]
        elif tagged := [model for model in models if part in _tags(model)]:
            models = tagged
        # else the part is an index or key of a list or mapping that holds these models
    return models


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the model classes in an annotation."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def _tags(model: type[BaseModel]) -> set[Any]:
    literals = (info.annotation for info in model.model_fields.values() if get_origin(info.annotation) is Literal)
    return {model.__name__, *(value for literal in literals for value in get_args(literal))}
