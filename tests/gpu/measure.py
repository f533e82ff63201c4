"""Time of every kernel at published sizes, on random data, in a CUDA graph of many launches: us a call.

    python -m tests.gpu.measure [--size mamba2-2.7b] [--length 512]

Needs QUAMBA_PLUGINS as `make gpu-test` sets it. A graph of 50 launches over rotating buffers is replayed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from op_cases import Case
from op_cases.drawing import draw

from quamba_export.calib.config import MambaConfig
from quamba_export.exporter.random_models import CONFIGS
from tests.gpu.kernel_library import KernelLibrary

LAUNCHES, COPIES = 50, 10


def calls(config: MambaConfig, batch: int, length: int) -> dict[str, Case]:
    """The calls of one layer, by what they are."""
    B, L, D, E, N = batch, length, config.d_model, config.d_inner, config.d_state
    tokens = {"B": B, "L": L}
    linear = {"weight_scale": 0.001, "bias": 0.0}
    cases = {
        "norm": draw("RMSNormQuantize", "m", {**tokens, "D": D}),
        "in_proj": draw(
            "RequantizedLinear", "m", {**tokens, "K": D, "M": config.d_in_proj}, **linear, out_scale=0.1
        ),
        "conv": draw("QuantizedCausalConv1d", "m", {**tokens, "C": config.conv_dim, "W": config.d_conv}),
        "out_proj": draw("QuantizedLinear", "m", {**tokens, "K": E, "M": D}, **linear),
    }
    if config.kind == "mamba2":
        sizes = {
            "H": config.n_heads,
            "P": config.headdim,
            "G": config.n_groups,
            "N": N,
            "S": 16 * config.n_groups,
        }
        cases["scan"] = draw(
            "QuantizedSSDScan", "m", {**tokens, **sizes}, state_dtype="float16", A_log=1.0, dt_bias=-4.0
        )
        cases["gated"] = draw(
            "GatedRMSNormHadamardQuantize", "m", {**tokens, "E": E}, attrs={"n_groups": config.n_groups}
        )
    else:
        R = config.dt_rank
        cases["x_proj"] = draw(
            "RequantizedLinear", "m", {**tokens, "K": E, "M": R + 2 * N}, **linear, out_scale=0.1
        )
        cases["dt_proj"] = draw("RequantizedLinear", "m", {**tokens, "K": R, "M": E}, **linear, out_scale=0.1)
        cases["scan"] = draw("QuantizedSelectiveScan", "m", {**tokens, "E": E, "N": N}, state_dtype="float16")
        cases["hadamard"] = draw("HadamardQuantize", "m", {**tokens, "E": E})
    return cases


def microseconds(library: KernelLibrary, case: Case) -> float:
    """One launch, the median of five replays of a graph of many."""
    prepared = [library.prepare(case) for _ in range(COPIES)]
    prepared[0].launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(LAUNCHES):
            prepared[i % COPIES].launch()
    graph.replay()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / LAUNCHES)
    return sorted(times)[2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", nargs="*", default=sorted(CONFIGS))
    parser.add_argument("--length", nargs="*", type=int, default=[1, 512])
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    library = KernelLibrary(Path(os.environ["QUAMBA_PLUGINS"]))
    for size in arguments.size:
        for length in arguments.length:
            times = {
                name: microseconds(library, case)
                for name, case in calls(CONFIGS[size], arguments.batch, length).items()
            }
            each = ", ".join(f"{name} {time:.2f}" for name, time in times.items())
            print(
                f"{size} B={arguments.batch} L={length}: {sum(times.values()):.2f} us a layer: {each}",
                flush=True,
            )


if __name__ == "__main__":
    main()
