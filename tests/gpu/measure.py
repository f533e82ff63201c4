"""Time of every kernel at published sizes, on random data, in a CUDA graph of many launches: us a call.

    python -m tests.gpu.measure [--size mamba2-2.7b] [--length 512] [--stack] [--separate] [--without scan]
        [--qformat w4a8|w4a16|w8a16]

Needs QUAMBA_PLUGINS as `make gpu-test` sets it. A graph of 50 launches over rotating buffers is replayed;
with --stack, one graph of the kernels of all layers in their order, each layer on weights of its own; what a
kernel costs there is told by leaving it out. One token takes the fused step unless --separate is given.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from op_cases import Case, int4, step
from op_cases.drawing import draw

from quamba_export.calib.config import MambaConfig
from quamba_export.exporter.speed.random_models import CONFIGS
from tests.gpu.kernel_library import KernelLibrary, Prepared

LAUNCHES, COPIES = 50, 10
ORDER = ("step", "norm", "in_proj", "conv", "x_proj", "dt_proj", "scan", "gated", "hadamard", "out_proj")


def calls(
    config: MambaConfig, batch: int, length: int, *, separate: bool = False, four_bits: bool = False
) -> dict[str, Case]:
    """The calls of one layer, by what they are. four_bits: of the weights of in_proj and out_proj."""
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
    if four_bits:
        in_proj, out_proj = {**tokens, "K": D, "M": config.d_in_proj}, {**tokens, "K": E, "M": D}
        cases["in_proj"] = int4.case_of("Int4RequantizedLinear", "m", in_proj)
        cases["out_proj"] = int4.case_of("Int4Linear", "m", out_proj)
    if length == 1 and not separate:
        del cases["norm"], cases["in_proj"], cases["conv"]
        begin = E if config.kind == "mamba2" else 0
        sizes = {**tokens, "D": D, "M": config.d_in_proj, "C": config.conv_dim, "W": config.d_conv}
        case_of = step.int4_case_of if four_bits else step.case_of
        cases["step"] = case_of("m", sizes, begin)
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


def half_calls(config: MambaConfig, batch: int, length: int, op: str) -> dict[str, Case]:
    """The same with fp16 activations. op: what the ops of in_proj and out_proj begin with."""
    tokens, D, E, N = {"B": batch, "L": length}, config.d_model, config.d_inner, config.d_state

    def linear(op: str, K: int, M: int) -> Case:
        return draw(op, "m", {**tokens, "K": K, "M": M}, weight_scale=0.001, bias=0.0)

    cases = {
        "norm": draw("HalfRMSNorm", "m", {**tokens, "D": D}),
        "in_proj": linear(f"{op}Projection", D, config.d_in_proj),
        "conv": draw("HalfCausalConv1d", "m", {**tokens, "C": config.conv_dim, "W": config.d_conv}),
        "out_proj": linear(f"{op}Linear", E, D),
    }
    if config.kind == "mamba2":
        sizes = {**tokens, "H": config.n_heads, "P": config.headdim, "G": config.n_groups, "N": N}
        cases["scan"] = draw("HalfSSDScan", "m", sizes, state_dtype="float16", A_log=1.0, dt_bias=-4.0)
        groups = {"n_groups": config.n_groups}
        cases["gated"] = draw("HalfGatedRMSNormHadamard", "m", {**tokens, "E": E}, attrs=groups)
    else:
        cases["x_proj"] = linear("HalfInt8Projection", E, config.dt_rank + 2 * N)
        cases["dt_proj"] = linear("HalfInt8Projection", config.dt_rank, E)
        cases["scan"] = draw("HalfSelectiveScan", "m", {**tokens, "E": E, "N": N}, state_dtype="float16")
        cases["hadamard"] = draw("HalfHadamard", "m", {**tokens, "E": E})
    return cases


HALF = {"w4a16": "HalfInt4", "w8a16": "HalfInt8"}


def microseconds(library: KernelLibrary, case: Case) -> float:
    """One launch of many in a graph."""
    prepared = [library.prepare(case) for _ in range(COPIES)]
    return graph_microseconds([prepared[i % COPIES] for i in range(LAUNCHES)]) / LAUNCHES


def stack_microseconds(library: KernelLibrary, layer: dict[str, Case], config: MambaConfig) -> float:
    """The kernels of all layers one after the other, without embedding and head."""
    order = [name for name in ORDER if name in layer]
    return graph_microseconds([library.prepare(layer[name]) for _ in range(config.n_layer) for name in order])


def graph_microseconds(prepared: list[Prepared]) -> float:
    """All launches as one CUDA graph, the median of five replays."""
    prepared[0].launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in prepared:
            call.launch()
    graph.replay()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1000)
    return sorted(times)[2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", nargs="*", default=sorted(CONFIGS))
    parser.add_argument("--length", nargs="*", type=int, default=[1, 512])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--stack", action="store_true")
    parser.add_argument("--separate", action="store_true")
    parser.add_argument("--qformat", choices=["w8a8", "w4a8", *HALF], default="w8a8")
    parser.add_argument("--without", nargs="*", default=[], choices=ORDER)
    arguments = parser.parse_args()
    library = KernelLibrary(Path(os.environ["QUAMBA_PLUGINS"]))
    for size in arguments.size:
        for length in arguments.length:
            title, config = f"{size} {arguments.qformat} B={arguments.batch} L={length}", CONFIGS[size]
            if op := HALF.get(arguments.qformat):
                whole = half_calls(config, arguments.batch, length, op)
            else:
                four_bits = arguments.qformat == "w4a8"
                whole = calls(
                    config, arguments.batch, length, separate=arguments.separate, four_bits=four_bits
                )
            layer = {name: case for name, case in whole.items() if name not in arguments.without}
            if arguments.stack:
                total = stack_microseconds(library, layer, config)
                left_out = "".join(f", without {name}" for name in arguments.without)
                print(f"{title}: {total / 1000:.3f} ms for {config.n_layer} layers{left_out}", flush=True)
                continue
            each = {name: microseconds(library, case) for name, case in layer.items()}
            times = ", ".join(f"{name} {time:.2f}" for name, time in each.items())
            print(f"{title}: {sum(each.values()):.2f} us a layer: {times}", flush=True)


if __name__ == "__main__":
    main()
