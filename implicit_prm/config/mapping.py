"""Plain dicts to typed dataclasses, strictly: unknown keys, wrong types and unsound values are refused by name."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from implicit_prm.types import ImplicitPRMError

T = TypeVar("T")


def at_least(config: Any, minimum: float, *keys: str, where: str = "") -> None:
    """Refuse options below `minimum` (and NaN); None means not set."""
    for key in keys:
        value = getattr(config, key)
        if value is not None and not value >= minimum:
            raise ImplicitPRMError(f"{where}{key} is {value}; it must be at least {minimum}")


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build dataclass `cls` from nested dicts, strictly.

    Raises:
        ImplicitPRMError: an unknown key (with the nearest known one), a missing key, a wrong type, or whatever
            `validate` of the class or of a nested one finds unsound. The message starts with the key's full name.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ImplicitPRMError(f"{where}{key}: unknown option; {hint}")
    built = {}
    for name, spec in known.items():
        if name in values:
            built[name] = convert(hints[name], values[name], f"{where}{name}")
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise ImplicitPRMError(f"{where}{name}: missing; it has no default and must be given")
    result = cls(**built)
    if hasattr(result, "validate"):
        result.validate()
    return result


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` names; raises ImplicitPRMError that starts with `where` if it is another."""
    if hint is Any:
        return value
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in options:
            raise ImplicitPRMError(f"{where}={value}: choose one of {', '.join(map(str, options))}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(options, value, where)
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ImplicitPRMError(f"{where}={value!r}: expected a group of options, not a single value")
        return from_mapping(hint, value, f"{where}.")  # type: ignore[arg-type]
    if origin is list:
        if not isinstance(value, list):
            raise ImplicitPRMError(f"{where}={value!r}: expected a list")
        return [convert(options[0], item, f"{where}[{place}]") for place, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ImplicitPRMError(f"{where}={value!r}: expected a group of options, not a single value")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ImplicitPRMError(f"{where}={value!r}: expected {_name(hint)}, got {type(value).__name__}")
    return value


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    candidates = [option for option in options if option is not type(None)]
    if len(candidates) == 1:
        return convert(candidates[0], value, where)
    if all(map(is_dataclass, candidates)):
        if not isinstance(value, Mapping):
            raise ImplicitPRMError(f"{where}={value!r}: expected a group of options, not a single value")
        return from_mapping(_told_apart(candidates, value, where), value, f"{where}.")
    for option in candidates:
        try:
            return convert(option, value, where)
        except ImplicitPRMError:
            continue
    raise ImplicitPRMError(f"{where}={value!r}: expected {' or '.join(_name(option) for option in candidates)}")


def _told_apart(candidates: list[Any], value: Mapping[str, Any], where: str) -> Any:
    """Which dataclass of a union is meant: by its `name` where each has its own, else by the options that are given."""
    named = {get_args(get_type_hints(option)["name"])[:1]: option for option in candidates}
    if () in named:  # the policies, whose name is a model's
        return max(candidates, key=lambda option: _fit(option, value))
    by_name = {name: option for (name,), option in named.items()}
    name = value.get("name")
    if not isinstance(name, str) or name not in by_name:
        raise ImplicitPRMError(f"{where}.name={name}: choose one of {', '.join(sorted(by_name))}")
    return by_name[name]


def _fit(cls: Any, value: Mapping[str, Any]) -> tuple[int, int]:
    """How well the given options fit a dataclass: those it knows less those it lacks; of equals, the more demanding."""
    known = {f.name for f in fields(cls)}
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    return len(known & value.keys()) - len(required - value.keys()), len(required)


def _name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(hint, str(hint))
