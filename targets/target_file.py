"""The TOML file of a target: its keys, and what each may be."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from quamba_export.runtime.errors import QuambaError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
MAX_TEXT = 200
BACKENDS, TESTED = ("onnxruntime", "tensorrt"), ("run", "compiled", "no")
RANGES: dict[str, tuple[float, float]] = {
    "sm": (75, 999),
    "memory_gb": (1, 10_000),
    "bandwidth_gb_per_s": (1, 100_000),
    "max_batch": (1, 4096),
    "prefill_length": (2, 65_536),
    "jetpack": (6, 7),
}
OPTIONAL = {"aliases", "jetpack", "software", "tested"}


@dataclass(frozen=True)
class Software:
    """One release of what is installed on a target, its versions as their makers write them."""

    name: str
    tensorrt: str
    cuda: str
    python: str
    driver: str


@dataclass(frozen=True)
class Target:
    """One device family, as its TOML file describes it."""

    name: str
    description: str
    backend: str  # the engine runtime/ picks for a bundle: one of BACKENDS
    aliases: tuple[str, ...] = ()  # other names that `--target` takes
    tested: str = "no"  # "run": bundles were run there; "compiled": the plugins were compiled for it, not run
    # this and the rest of a "tensorrt" one only
    sm: int = 0  # compute capability of the GPU, 90 for 9.0
    memory_gb: float = 0.0  # 1e9 bytes, as the maker names it
    bandwidth_gb_per_s: float = 0.0  # of that memory, the maker's figure
    max_batch: int = 0  # sequences
    prefill_length: int = 0  # tokens of the longest call of the prefill engine
    jetpack: int = 0  # of a Jetson, whose plugin library may be compiled elsewhere: the release it has
    software: tuple[Software, ...] = ()


def parse_target(text: str, where: str) -> Target:
    """The target that a file's text describes. Raises QuambaError (exit 3) naming `where` and the key."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise QuambaError(f"{where} is not valid TOML", found=str(error), allowed="UTF-8 TOML") from error
    _check_keys(table, where)
    values = {key: _value(key, value, where) for key, value in table.items()}
    return Target(**values)


def _check_keys(table: Mapping[str, Any], where: str) -> None:
    """Those that every target has, and of a "tensorrt" one the device's; none besides."""
    plans = table.get("backend") == "tensorrt"
    known = {field.name for field in fields(Target) if plans or field.name not in RANGES}
    needed = {f.name for f in fields(Target) if f.default is MISSING} | (set(RANGES) if plans else set())
    odd = sorted(set(table) - known) or sorted(needed - OPTIONAL - set(table))
    if odd:
        raise QuambaError(
            f"{where} does not describe a target",
            found=f"key '{odd[0]}'" if odd[0] in table else f"no key '{odd[0]}'",
            allowed=f"{', '.join(sorted(needed - OPTIONAL))}; and {', '.join(sorted(OPTIONAL & known))}",
            fix="correct the file's keys",
        )


def _value(key: str, value: Any, where: str) -> Any:
    """The checked value of one key."""
    if key == "software":
        if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
            return tuple(_software(entry, where) for entry in value)
        raise _refusal(key, value, "tables [[software]]", where)
    if key == "aliases":
        if isinstance(value, list):
            return tuple(_value("name", alias, where) for alias in value)
        raise _refusal(key, value, "a list of names", where)
    if key in RANGES:
        low, high = RANGES[key]
        kinds = (int, float) if key in ("memory_gb", "bandwidth_gb_per_s") else (int,)
        if type(value) in kinds and low <= value <= high:
            return value
        raise _refusal(key, value, f"a number from {low:g} to {high:g}", where)
    return _text(key, value, where)


def _text(key: str, value: Any, where: str) -> str:
    choices = {"backend": BACKENDS, "tested": TESTED}.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise _refusal(key, value, f"1 to {MAX_TEXT} printable characters", where)
    if choices and value not in choices:
        raise _refusal(key, value, " or ".join(choices), where)
    if key == "name" and not NAME.fullmatch(value):
        raise _refusal(key, value, "small letters, digits and hyphens, up to 32", where)
    return value


def _software(entry: Mapping[str, Any], where: str) -> Software:
    names = [field.name for field in fields(Software)]
    if sorted(entry) != sorted(names):
        raise _refusal("software", sorted(entry), f"the keys {', '.join(names)}", where)
    return Software(**{key: _text(f"software.{key}", value, where) for key, value in entry.items()})


def _refusal(key: str, value: Any, allowed: str, where: str) -> QuambaError:
    return QuambaError(
        f"{where}: '{key}' is not allowed", found=repr(value)[:200], allowed=allowed, fix="correct the file"
    )
