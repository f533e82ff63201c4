"""A target is one data file in this folder: where a bundle runs and what runs it there."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from importlib.resources import files

import tomllib

from quamba_export.runtime.errors import ExitCode, QuambaError


@dataclass(frozen=True)
class Target:
    """One device family, as its TOML file describes it."""

    name: str
    description: str
    backend: str  # the engine runtime/ picks for a bundle: "onnxruntime" or "tensorrt"
    sm: int = 0  # compute capability of the GPU, 90 for 9.0; this and the rest of a "tensorrt" one only
    max_batch: int = 0  # sequences
    prefill_length: int = 0  # tokens of the longest call of the prefill engine
    jetpack: int = 0  # of a Jetson, whose plugin library may be compiled elsewhere: the release it has


def target_names() -> list[str]:
    """Names of the targets that `build` knows, sorted."""
    folder = files(__package__)
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_target(name: str) -> Target:
    """The target called `name`. Raises QuambaError (exit 5) for one this release has no data file of."""
    known = target_names()
    if name not in known:
        raise QuambaError(
            f"no bundle can be built for target '{name}'",
            found=f"--target {name}",
            allowed=", ".join(known),
            fix="build for a target this release knows, for example"
            f" `quamba-export build export/ --target {known[0]}`",
            code=ExitCode.INCOMPATIBLE,
        )
    table = tomllib.loads(files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    plans = table.get("backend") == "tensorrt"
    expected = {field.name for field in fields(Target) if plans or field.default is MISSING} - {"jetpack"}
    if set(table) - ({"jetpack"} if plans else set()) != expected:
        raise QuambaError(
            f"targets/{name}.toml does not describe a target",
            found=f"keys {sorted(table)}",
            allowed=f"exactly {sorted(expected)}, and jetpack of a Jetson",
            fix="correct the file's keys",
        )
    return Target(**table)
