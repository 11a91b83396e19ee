"""Reads YAML safely and decodes it into frozen dataclasses; errors name the key."""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from edgecompile.contract.errors import UserError, choices
from edgecompile.contract.files.user_files import read_text

__all__ = ["OMITTED", "decode", "load_yaml"]

OMITTED = "omitted if empty"
"""In the metadata of a field that files hold only where it says something."""

T = TypeVar("T")

_MOST_NESTED = 50

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeys(_Base):  # type: ignore[misc]
    """A safe loader that refuses repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    problem = f"duplicate key {key_node.value!r}"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path, *, what: str, max_bytes: int, hint: str = "") -> Any:
    """The document in `path`: plain values only, no aliases, no repeated keys.

    Raises:
        UserError: the file cannot be read, is larger than `max_bytes`, no UTF-8, or no YAML.
    """
    ending = f": {hint}" if hint else ""
    text = read_text(path, what=what, max_bytes=max_bytes, hint=hint)
    try:
        _refuse_bombs(text)
        return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a safe loader, stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        raise UserError(f"{path}{at}: not a readable {what}: {error.problem or error.context}{ending}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable {what}: {first}{ending}") from None


def _refuse_bombs(text: str) -> None:
    """Aliases let a small file name a huge document; deep nesting exhausts the stack of whoever walks it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Base):
        problem = None
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases (*name) are not allowed here"
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            problem = f"nested more than {_MOST_NESTED} deep" if depth > _MOST_NESTED else None
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if problem is not None:
            mark = cast(yaml.Mark, event.start_mark)
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def decode(cls: type[T], value: Any, *, where: str, key: str = "") -> T:
    """Builds the frozen dataclass `cls` from plain values, checking every type.

    Raises:
        UserError: a key is missing, unknown, or its value of the wrong type; names it.
    """
    return cast(T, _decode(cls, value, where, key))


def _decode(kind: Any, value: Any, where: str, key: str) -> Any:  # noqa: PLR0911 - one return a kind of type
    if is_dataclass(kind):
        return _decode_dataclass(cast(type, kind), value, where, key)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        inner = [item for item in get_args(kind) if item is not type(None)]
        return _decode(inner[0], value, where, key)
    if origin is tuple:
        return _decode_tuple(get_args(kind), value, where, key)
    if origin is list:
        return list(_decode_tuple((get_args(kind)[0], Ellipsis), value, where, key))
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise _misfit(value, "a mapping with text keys", where, key)
        inner_kind = get_args(kind)[1]
        return {name: _decode(inner_kind, item, where, f"{key}.{name}") for name, item in value.items()}
    return _decode_scalar(kind, value, where, key)


def _decode_dataclass(kind: Any, value: Any, where: str, key: str) -> Any:
    if not isinstance(value, dict):
        raise _misfit(value, "a mapping", where, key)
    hints = _hints(kind)
    names = {item.name for item in fields(kind)}
    unknown = sorted(str(name) for name in value if name not in names)
    if unknown:
        known = choices(names, unknown[0])
        raise UserError(f"{where}: unknown key {_join(key, unknown[0])}: the keys here are {known}")
    arguments = {}
    for item in fields(kind):
        if item.name in value:
            arguments[item.name] = _decode(hints[item.name], value[item.name], where, _join(key, item.name))
        elif item.default is MISSING and item.default_factory is MISSING:
            raise UserError(f"{where}: the key {_join(key, item.name)} is missing")
    return kind(**arguments)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str, key: str) -> Any:
    if not isinstance(value, list):
        raise _misfit(value, "a list", where, key)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_decode(kinds[0], item, where, _join(key, str(index))) for index, item in enumerate(value))
    if len(value) != len(kinds):
        raise _misfit(value, f"a list of {len(kinds)}", where, key)
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_decode(inner, item, where, _join(key, str(index))) for index, (inner, item) in pairs)


def _decode_scalar(kind: Any, value: Any, where: str, key: str) -> Any:
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _misfit(value, "a number", where, key)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise _misfit(value, "a finite number", where, key)
        return number
    if kind is int and (isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63):
        raise _misfit(value, "a whole number below 2^63", where, key)
    if kind is bool and not isinstance(value, bool):
        raise _misfit(value, "true or false", where, key)
    if kind is str and not isinstance(value, str):
        raise _misfit(value, "text", where, key)
    if kind is str and not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _misfit(value, "text without lone surrogates", where, key) from None
    return value


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _misfit(value: Any, wanted: str, where: str, key: str) -> UserError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return UserError(f"{where}: invalid value {shown} for {key or 'top level'}: expected {wanted}")
