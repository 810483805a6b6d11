"""
The options of ``llem run``, made from the configuration's classes and their docstrings.

Every setting is an option that may be left out, so that a file's settings stand under those of the
command line, and those of the configuration's defaults under both.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import attrs
from cyclopts import Parameter

from llem.codec import config_from_mapping
from llem.domain.config import ExperimentConfig
from llem.domain.fields import descriptions
from llem.errors import ConfigError

_NONE = "none"


def option_class(cls: type[Any], prefix: str = "") -> type[Any]:
    """The class *cls* with every field an option, None where it is not given."""
    described = descriptions(cls)
    fields = {}
    for field in attrs.fields(cls):
        if get_origin(_without_none(field.type)) is Mapping or (cls, field.name) == _POSITIONAL:
            continue
        name = f"--{prefix}{field.name}".replace("_", "-")
        kind = _option_type(field.type, prefix=f"{prefix}{field.name}.")
        words = described.get(field.name, "")
        if not attrs.has(_without_none(field.type)):
            words += f" [default: {_shown(field.default)}]"
        names = [name, *_ALIASES.get((cls, field.name), ())]
        parameter = Parameter(name=names, help=words, show_default=False)
        annotation: Any = Annotated[kind | None, parameter]
        fields[field.name] = attrs.field(default=None, type=annotation)
    made: type[Any] = attrs.make_class(f"{cls.__name__}Options", fields, frozen=True, kw_only=True)
    made.__doc__ = ""
    return made


def resolve(model: str | None, options: Any, file: Path | None) -> ExperimentConfig:
    """
    The configuration that *file*, then *options*, then *model* spell out.

    Raises:
        ConfigError: The file cannot be read, or a setting is not known or cannot be.
    """
    settings: dict[str, Any] = {}
    if file is not None:
        settings = _with_nulls(_read_toml(file), ExperimentConfig)
        config_from_mapping(settings, source=str(file))
    if options is not None:
        _merge(settings, _given(options))
    if model is not None:
        settings["model"] = model
    try:
        return config_from_mapping(settings, source="options")
    except ConfigError as error:
        raise ConfigError(_by_flag(str(error))) from None


_POSITIONAL = (ExperimentConfig, "model")

_ALIASES = {(ExperimentConfig, "n"): ["--num-prompts"]}
"""Further names of an option. torchrun takes ``--n`` for the beginning of one of its own."""


def _read_toml(file: Path) -> dict[str, Any]:
    if file.exists() and not file.is_file():
        raise ConfigError(f"{file}: is no regular file")
    try:
        with file.open("rb") as opened:
            return tomllib.load(opened)
    except UnicodeDecodeError as fault:
        raise ConfigError(f"{file}: is no TOML: not UTF-8 at byte {fault.start}") from None
    except (ValueError, RecursionError) as fault:
        raise ConfigError(f"{file}: is no TOML: {fault}") from None
    except OSError as fault:
        raise ConfigError(f"{file}: cannot be read: {fault.strerror}") from None


def _with_nulls(settings: dict[str, Any], cls: type[Any]) -> dict[str, Any]:
    """*settings*, with None for what the text "none" stands for, since TOML has no null."""
    kinds = {field.name: field.type for field in attrs.fields(cls)}
    return {
        name: _with_nulls(value, kinds[name])
        if isinstance(value, dict) and attrs.has(kinds.get(name, object))
        else None
        if value == _NONE and NoneType in get_args(kinds.get(name))
        else value
        for name, value in settings.items()
    }


def _given(options: Any) -> dict[str, Any]:
    """The options that were given, as settings."""
    given: dict[str, Any] = {}
    for field in attrs.fields(type(options)):
        value = getattr(options, field.name)
        if attrs.has(type(value)):
            given[field.name] = _given(value)
        elif value is not None:
            given[field.name] = None if value == _NONE else value
    return {name: value for name, value in given.items() if value != {}}


def _merge(settings: dict[str, Any], given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if isinstance(value, dict):
            _merge(settings.setdefault(name, {}), value)
        else:
            settings[name] = value


def _by_flag(message: str) -> str:
    """*message* with each fault under the option that sets it, in place of its path."""
    faults = re.findall(r"(?:^options: |; )(.*?) @ \$\.([\w.]+)", message)
    return "; ".join(f"--{path.replace('_', '-')}: {problem}" for problem, path in faults)


def _option_type(kind: Any, *, prefix: str) -> Any:
    inner = _without_none(kind)
    if attrs.has(inner):
        return option_class(inner, prefix)
    if get_origin(inner) is Literal and inner is not kind:
        return Literal[(*get_args(inner), _NONE)]
    return inner


def _without_none(kind: Any) -> Any:
    arguments = get_args(kind)
    if NoneType not in arguments:
        return kind
    return next(argument for argument in arguments if argument is not NoneType)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return _NONE if default is None else str(default)
