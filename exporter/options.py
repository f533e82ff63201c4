"""Flags that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quamba_export.calib.model import state_dtype
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from quamba_export.calib.model.scan_input import ScanInput

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Data = Annotated[
    str,
    typer.Option(
        "--data", metavar="TEXT", help="A .txt or .jsonl file, or the name of a Hugging Face dataset."
    ),
]
TextToScore = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="TEXT", help="A .txt or .jsonl file, or the name of a Hugging Face dataset."
    ),
]
Window = Annotated[
    int, typer.Option("--window", min=2, help="Tokens a window; the state starts at zero in each.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=2, help="Cut the text to its first N tokens."),
]
CalibrationPath = Annotated[
    Path | None,
    typer.Option("--calibration", help="The calibration/ directory the quantized model was made with."),
]
QFormat = Annotated[
    str,
    typer.Option(
        "--qformat", help="Widths of weights and activations: w8a8, w4a8, w4a16, w4ax, w8a16, fp16, fp32."
    ),
]
EmbeddingBits = Annotated[
    int | None, typer.Option(help="Embedding: 8 or 4, codes; 16, fp16. Default: 16, or 32 in fp32.")
]
LmHeadBits = Annotated[int | None, typer.Option(help="lm_head: 8 or 4, codes; 16, fp16. Default: as above.")]
SsmStateDtype = Annotated[
    state_dtype.SsmStateDtype | None,
    typer.Option(
        "--ssm-state-dtype",
        help="How the scan state is stored between tokens. Default: float16, or float32 in fp32.",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "-o", "--out", help="The directory to write; it appears when it is whole, in place of an earlier one."
    ),
]
ProviderOption = Annotated[
    Literal["cpu", "cuda"] | None,
    typer.Option(
        "--provider",
        help="ONNX Runtime's execution provider, cpu where none is named; cuda needs onnxruntime-gpu.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="cpu|cuda[:N]", help="Where PyTorch computes. Two runs on one device agree."
    ),
]
RequireSignature = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        metavar="PEM",
        help="Load only what this public key, or this certificate's, has signed (`quamba-export sign`).",
    ),
]
SsmInput = Annotated[
    str | None,
    typer.Option(
        "--ssm-input",
        metavar="MODE",
        help="A study of the scan's input: int8, fp32, simulated-int8, dual-scale, uniform-scale, w4a5-se.",
    ),
]
TaskNames = Annotated[
    str | None,
    typer.Option(
        "--tasks", help="lm-eval's tasks, by name, with commas; quamba: the paper's six. Needs lm-eval."
    ),
]
TaskPath = Annotated[
    Path | None,
    typer.Option("--task-path", help="With --tasks: a folder of task files, in place of lm-eval's own."),
]
TaskLimit = Annotated[
    int | None,
    typer.Option("--task-limit", min=1, help="With --tasks: examples of each task, its first."),
]
ScaleFactor = Annotated[
    str | None,
    typer.Option("--scale-factor", metavar="NUMBER|auto", help="Between the two scales of --ssm-input."),
]
# the published code's names for modes of --ssm-input
Fp32SsmInput = Annotated[bool, typer.Option("--fp32-ssm-input", hidden=True)]
FloatSimAsicInt8 = Annotated[bool, typer.Option("--float-sim-asic-int8", hidden=True)]
FloatSimAsicResearchSe = Annotated[bool, typer.Option("--float-sim-asic-research-se", hidden=True)]
W4a5Se = Annotated[bool, typer.Option("--w4a5-se", hidden=True)]


def chosen_scan_input(
    mode: str | None, factor: str | None, fp32: bool, simulated: bool, dual: bool, w4a5: bool
) -> ScanInput | None:
    """The mode that flags amount to, None where there are none. Raises QuambaError (exit 2) for two."""
    from quamba_export.calib.model.scan_input import scan_input_named

    named = {"fp32": fp32, "simulated-int8": simulated, "dual-scale": dual, "w4a5-se": w4a5}
    modes = [name for name, given in named.items() if given] + ([mode] if mode else [])
    if len(modes) > 1:
        raise QuambaError(
            "two modes of the scan's input",
            found=", ".join(modes),
            allowed="one of them",
            code=ExitCode.USAGE,
        )
    if not modes and factor is None:
        return None
    return scan_input_named(modes[0] if modes else "int8", factor)
