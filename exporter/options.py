"""Flags that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Data = Annotated[
    str,
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
        "--qformat", help="Widths of weights and activations: w8a8, w4a8, w4a16, w8a16, fp16, fp32."
    ),
]
EmbeddingBits = Annotated[
    int | None, typer.Option(help="Embedding: 8 or 4, codes; 16, fp16. Default: 16, or 32 in fp32.")
]
LmHeadBits = Annotated[int | None, typer.Option(help="lm_head: 8 or 4, codes; 16, fp16. Default: as above.")]
SsmStateDtype = Annotated[
    Literal["float16", "float32", "int8"],
    typer.Option(
        "--ssm-state-dtype",
        help="How the scan state is stored between tokens. Default: float16, or float32 in fp32.",
    ),
]
Output = Annotated[
    Path, typer.Option("-o", "--out", help="The directory to write; it appears when it is whole.")
]
ProviderOption = Annotated[
    Literal["cpu", "cuda"] | None,
    typer.Option(
        "--provider",
        help="ONNX Runtime's execution provider, cpu where none is named; cuda needs onnxruntime-gpu.",
    ),
]
