"""Build typed dataclasses from plain dicts. Unknown keys, wrong types and invalid values are refused by name."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from implicit_prm.config.validation import similar_option
from implicit_prm.types import ImplicitPRMError

T = TypeVar("T")

_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from nested dicts.

    Args:
        cls: The dataclass. If it has a method `validate`, it is called on the result.
        values: Option names and values; options that are left out get their defaults.
        where: Prefix of the option names in errors, such as `model.`.

    Raises:
        ImplicitPRMError: An unknown key (with the nearest known one), a missing key, a wrong type, or a combination
            that `validate` refuses. The message starts with the full name of the option.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = similar_option(str(key), known)
            hint = f"did you mean {where}{near}?" if near else f"known keys: {', '.join(known)}"
            raise ImplicitPRMError(f"{where}{key}: unknown option; {hint}")
    built = {}
    for name, spec in known.items():
        if name in values:
            built[name] = convert(hints[name], values[name], f"{where}{name}")
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise ImplicitPRMError(f"{where}{name}: missing; it has no default")
    result = cls(**built)
    if hasattr(result, "validate"):
        result.validate()
    return result


def convert(hint: Any, value: Any, where: str) -> Any:
    """Check that `value` has the type `hint` and return it; dicts become dataclasses and whole numbers floats.

    Raises:
        ImplicitPRMError: The type is another one. The message starts with `where`, the name of the option.
    """
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
        return from_mapping(hint, _group(value, where), f"{where}.")  # type: ignore[arg-type]
    if origin is list:
        if not isinstance(value, list):
            raise ImplicitPRMError(f"{where}={value!r}: expected a list")
        return [convert(options[0], item, f"{where}[{place}]") for place, item in enumerate(value)]
    if origin is dict:
        return dict(_group(value, where))
    if hint in (int, float) and isinstance(value, int) and abs(value) >= 2**63:
        raise ImplicitPRMError(f"{where}: expected a number of less than 64 bits, got one of {value.bit_length()}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ImplicitPRMError(f"{where}={value!r}: expected {_type_name(hint)}, got {type(value).__name__}")
    return value


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    candidates = [option for option in options if option is not type(None)]
    if len(candidates) == 1:
        return convert(candidates[0], value, where)
    if all(map(is_dataclass, candidates)):
        values = _group(value, where)
        return from_mapping(_tagged(candidates, values, where), values, f"{where}.")
    for option in candidates:
        try:
            return convert(option, value, where)
        except ImplicitPRMError:
            continue
    raise ImplicitPRMError(f"{where}={value!r}: expected {' or '.join(_type_name(option) for option in candidates)}")


def _tagged(candidates: list[Any], values: Mapping[str, Any], where: str) -> Any:
    """The dataclass of a union that `values` is for, by its tag: the field `kind` or `name`, which has one valid value.

    Without a tag, it is the first dataclass whose class attribute `implied_by` is among the given options.
    """
    tag = "kind" if all(hasattr(one, "kind") for one in candidates) else "name"
    by_tag = {get_args(get_type_hints(one)[tag])[0]: one for one in candidates}
    value = values.get(tag)
    if isinstance(value, str) and value in by_tag:
        return by_tag[value]
    if tag not in values:
        for one in candidates:
            if getattr(one, "implied_by", None) in values:
                return one
    raise ImplicitPRMError(f"{where}.{tag}={value}: choose one of {', '.join(sorted(by_tag))}")


def _group(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ImplicitPRMError(f"{where}={value!r}: expected a group of options, not a single value")
    return value


def _type_name(hint: Any) -> str:
    return _TYPE_NAMES.get(hint, str(hint))
