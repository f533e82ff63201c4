"""`quamba-export targets`: the devices that bundles are built for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from quamba_export.exporter.speed.predicted_floors import PredictedFloor
    from quamba_export.targets.target_file import Target


def targets(
    action: Annotated[str, typer.Argument(metavar="list|show", help="All of them, or one.")] = "list",
    name: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="For show: a name, or a .toml file of one's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the targets of `build`, or show one with the predicted floors of its decode speed.

    A device that is not listed is one TOML file of the same keys; `show` prints them.

    Example: quamba-export targets show orin-nano
    """
    from quamba_export.exporter.speed.predicted_floors import FORMULA, predicted_floors
    from quamba_export.targets.target import load_target
    from quamba_export.targets.target import targets as known

    if action not in ("list", "show") or (action == "show") != (name is not None):
        takes = {"show": "takes the name of a target", "list": "takes no name"}.get(action, "is no action")
        raise QuambaError(
            f"targets {action} {takes}",
            found="" if action not in ("list", "show") else name or "none",
            allowed="targets list, or targets show TARGET",
            fix="" if action in ("list", "show") else f"quamba-export targets show {action}",
            code=ExitCode.USAGE,
        )
    if name is None:
        found = known()
        emit({"targets": found}, as_json, lambda console: show_all(found, console))
        return
    target = load_target(name)
    floors = predicted_floors(target)
    result = {"target": target, "formula": FORMULA, "predicted_floors": floors}
    emit(result, as_json, lambda console: show_one(target, floors, FORMULA, console))


def show_all(targets: list[Target], console: Console) -> None:
    from rich.table import Table

    table = Table("target", "SM", "memory", "GB/s", "tested", "device", box=None, pad_edge=False)
    for target in targets:
        numbers = ("", "", "")
        if target.backend == "tensorrt":
            numbers = str(target.sm), f"{target.memory_gb:g} GB", f"{target.bandwidth_gb_per_s:g}"
        names = ", ".join((target.name, *target.aliases))
        table.add_row(names, *numbers, target.tested, target.description.split(" (sm_")[0])  # fits 80 columns
    console.print(table, highlight=False)
    console.print("`quamba-export targets show TARGET` shows one, with the predicted floors of its speed")


def show_one(target: Target, floors: list[PredictedFloor], formula: str, console: Console) -> None:
    """Keys as its file has them, then the predictions."""
    from dataclasses import asdict

    for key, value in asdict(target).items():
        if key != "software" and value:
            console.print(key, "=", *(value if isinstance(value, tuple) else [value]), highlight=False)
    for release in target.software:
        versions = f"TensorRT {release.tensorrt}, CUDA {release.cuda}, Python {release.python}"
        console.print(
            f"software: {release.name}: {versions}, driver {release.driver}", highlight=False, soft_wrap=True
        )
    if not floors:
        return
    console.print("\nTPOT floors, predicted and not measured", highlight=False)
    for qformat in dict.fromkeys(floor.qformat for floor in floors):
        of_width = [floor for floor in floors if floor.qformat == qformat]
        console.print(floor_table(of_width, target.max_batch), highlight=False)
    console.print(f"\n{formula}", markup=False, highlight=False, soft_wrap=True)


def floor_table(floors: list[PredictedFloor], max_batch: int) -> Table:
    """Of one width."""
    from rich.table import Table

    heads = (f"\n{floors[0].qformat.upper()}", "weights", "state", "batch 1", f"batch {max_batch}", "")
    table = Table(*heads, box=None, pad_edge=False)
    for floor in floors:
        sizes = f"{floor.weight_bytes / 1e9:.2f} GB", f"{floor.state_bytes / 1e6:.1f} MB"
        times = f"{floor.tpot_ms:.2f} ms", f"{floor.batch_tpot_ms:.2f} ms"
        table.add_row(floor.size, *sizes, *times, "" if floor.fits else "does not fit")
    return table
