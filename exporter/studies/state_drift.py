"""Drift of rounded scan states on a text, and its curves as an SVG file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from quamba_export.calib.calibration import read_calibration
from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.data import token_stream
from quamba_export.calib.device import torch_device
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.studies.state_drift import StateDrift, state_drift
from quamba_export.calib.studies.state_formats import study_formats
from quamba_export.calib.studies.state_study import chosen
from quamba_export.exporter.evaluation.language_models import require_tokenizer
from quamba_export.exporter.report.charts import path, tag, titled

WIDTH, HEIGHT, LEFT, BOTTOM, LEGEND = 640, 320, 60, 30, 150
COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#efb118", "#a463f2", "#6cc5b0", "#9c6b4e", "#97bbf5")


def drift_on_text(
    checkpoint: str,
    calibration: Path,
    data: str,
    *,
    tokens: int,
    formats: str,
    optional: bool = False,
    device: str = "cpu",
    advance: Callable[[int], None] = lambda amount: None,
) -> list[StateDrift]:
    """optional: leave out formats that this kind of model has not, instead of refusing them.

    Raises QuambaError for an unknown format (exit 2) and for text that cannot be read or is too short.
    """
    place = torch_device(device)
    source, scales = load_checkpoint(checkpoint), read_calibration(calibration)
    known = study_formats(quantize_model(source, scales, ssm_state_dtype="int8").to(place))
    if optional:
        formats = ";".join(name for name in formats.split(";") if name in known)
    wanted = chosen(known, formats)
    tokenizer = require_tokenizer(source.tokenizer_path, checkpoint)
    stream = token_stream(data, tokenizer, source.eos_token_id, limit=tokens)
    model = quantize_model(source, scales, ssm_state_dtype="float32").to(place)
    return state_drift(model, torch.from_numpy(stream).to(place), wanted, advance)


def write_plot(drifts: Sequence[StateDrift], file: Path) -> None:
    """Error by tokens read, both logarithmic; a curve a format, its verdict in the legend."""
    file.write_text(drift_chart(drifts), encoding="utf-8")


def drift_chart(drifts: Sequence[StateDrift]) -> str:
    longest = max(tokens for drift in drifts for tokens in drift.tokens)
    positive = [error for drift in drifts for error in drift.errors if error > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))

    def place(tokens: int, error: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT) * math.log(tokens) / math.log(longest)
        y = (HEIGHT - BOTTOM) * (high - math.log10(max(error, 10**low))) / max(1, high - low)
        return round(x, 1), round(y, 1)

    marks = []
    for exponent in range(low, high + 1):
        _, y = place(1, 10.0**exponent)
        marks.append(tag("path", d=f"M{LEFT},{y}H{WIDTH}", stroke="#8885", fill="none"))
        marks.append(tag("text", f"1e{exponent}", x=LEFT - 6, y=y + 4, text_anchor="end"))
    for tokens in (4**k for k in range(int(math.log(longest, 4)) + 1)):
        marks.append(tag("text", str(tokens), x=place(tokens, 1)[0], y=HEIGHT - 8, text_anchor="middle"))
    for k, (drift, colour) in enumerate(zip(drifts, COLOURS * len(drifts), strict=False)):
        points = [place(*pair) for pair in zip(drift.tokens, drift.errors, strict=True)]
        line = tag("polyline", points=path(points), stroke=colour, stroke_width=2, fill="none")
        marks.append(titled(line, drift.name))
        label = f"{drift.name}: {drift.verdict}"
        marks.append(tag("text", label, x=WIDTH + 12, y=20 + 20 * k, fill=colour))
    box = f"0 -8 {WIDTH + LEGEND + 60} {HEIGHT + 16}"
    body = "".join([tag("title", "error of the scan state against fp32, by tokens read"), *marks])
    style = "font-family:sans-serif;font-size:12px;fill:currentColor;background:white"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" style="{style}">{body}</svg>\n'
