"""Seconds and memory of calibrating a model of published size on a GPU with a cap on its memory.

    python -m tests.gpu.measure_calibration FOLDER [--size mamba2-8b] [--layers 56] [--samples 16]
        [--gib 24] [--rounding gptq]

Writes FOLDER/checkpoint, random weights in bf16, a safetensors shard a layer (mamba2-8b: 18 GB), unless it is
there, and calibrates it. Prints the peak of torch's memory on the device, that of this process on the host
(files that it has mapped are in it), and the seconds of reading and calibrating.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from random_checkpoints import hugging_face_config, hugging_face_name
from safetensors.torch import save_file
from tiny_flow import WORDS, write_word_tokenizer

from quamba_export.calib.calibrate import calibrate
from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.checkpoints.tensors import tensor_shapes
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.recipes.recipe import default_recipe
from quamba_export.exporter.model_sizes import CONFIGS

GIB = 1 << 30
LENGTH = 512  # tokens a sample


def write_checkpoint(folder: Path, config: MambaConfig, device: torch.device) -> None:
    """A Hugging Face directory whose shards are written one after the other."""
    folder.mkdir(parents=True)
    weight_map = {}
    for shard, shapes in shards(config):
        drawn = {hugging_face_name(name): draw(name, shape, device) for name, shape in shapes.items()}
        save_file({name: tensor.cpu() for name, tensor in drawn.items()}, folder / shard)
        weight_map |= dict.fromkeys(drawn, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(hugging_face_config(config)))
    write_word_tokenizer(folder / "tokenizer.json")


def shards(config: MambaConfig) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """File name -> the tensors in it: a layer each, then all others."""
    rest = tensor_shapes(config)
    for i in range(config.n_layer):
        names = [name for name in rest if name.startswith(f"backbone.layers.{i}.")]
        yield f"model-{i:05}.safetensors", {name: rest.pop(name) for name in names}
    yield "model-ends.safetensors", rest


def draw(name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """bf16 weights of trained magnitude: A in [1, 16], steps of 0.001 to 0.1."""
    uniform, normal = torch.rand(shape, device=device), torch.randn(shape, device=device)
    if name.endswith("A_log"):
        values = torch.log(1 + 15 * uniform)
    elif name.endswith("dt_bias"):
        values = torch.log(torch.expm1(torch.exp(-6.9 + 4.6 * uniform)))
    elif name.endswith(("norm.weight", "norm_f.weight", ".D")):
        values = 1 + 0.2 * normal
    else:
        values = 0.5 * normal / math.sqrt(1 if "embedding" in name else shape[-1])
    return values.bfloat16()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="mamba2-8b", choices=sorted(CONFIGS))
    parser.add_argument("--layers", type=int)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--gib", type=float, default=24)
    parser.add_argument("--rounding", default="nearest", choices=["nearest", "gptq"])
    parser.add_argument("--device", default="cuda:0")
    arguments = parser.parse_args()
    device, config = torch.device(arguments.device), CONFIGS[arguments.size]
    config = replace(config, n_layer=arguments.layers or config.n_layer)
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.gib * GIB / whole), device)
    folder, text = arguments.folder / "checkpoint", arguments.folder / "text.txt"
    if not folder.exists():
        torch.manual_seed(0)
        write_checkpoint(folder, config, device)
    text.write_text(" ".join(WORDS[7 * k % len(WORDS)] for k in range(arguments.samples * LENGTH + 1)))
    started = time.perf_counter()
    checkpoint = load_checkpoint(folder)
    read = time.perf_counter()
    print(f"read and digested in {read - started:.1f} s", flush=True)
    recipe = default_recipe(config).rounded_by({"kind": arguments.rounding})
    size = {"calib_size": arguments.samples, "calib_seqlen": LENGTH}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    calibrate(
        checkpoint,
        text,
        recipe,
        device=arguments.device,
        out_dir=arguments.folder / "calibration",
        progress=lambda at: print(f"\r{at.stage} {at.done}/{at.total}", end="", flush=True),
        **size,
    )
    print(f"\ncalibrated in {time.perf_counter() - read:.1f} s")
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        print(
            f"device: {most[0] / GIB:.2f} GiB in tensors, {most[1] / GIB:.2f} reserved, cap {arguments.gib:g}"
        )
    print(f"host: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20):.2f} GiB")


if __name__ == "__main__":
    main()
