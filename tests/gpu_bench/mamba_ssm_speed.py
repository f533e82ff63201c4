"""mamba-ssm's own fp16 model with CUDA graph decode, in the columns of exporter/tensorrt/speed.py.

    python -m tests.gpu_bench.mamba_ssm_speed mamba2-2.7b mamba-130m --output theirs.jsonl

Sizes are those of exporter/model_sizes.py, weights are random. Prefill and decode are what its `generate`
does with cg=True. TTFT and TPOT end when the tokens are in host memory; its benchmark script leaves them on
the GPU and waits once in the end, which is the column free_running_tpot_ms. Memory is the most that torch had
allocated, without its cache and CUDA's context.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import torch

from quamba_export.calib.config import MambaConfig
from quamba_export.exporter.speed.gpu_speed import (
    BATCHES,
    MIB,
    PROMPTS,
    TPOT_RUNS,
    TTFT_RUNS,
    WARM_UP,
    GpuSpeed,
    append_speed,
    copy_gb_per_s,
    milliseconds,
)
from quamba_export.exporter.speed.random_models import CONFIGS
from quamba_export.runtime.errors import ExitCode, QuambaError

DEVICE = "cuda"
COPY_BYTES = 2 << 30
DECODED = WARM_UP + TPOT_RUNS  # tokens a run of milliseconds() decodes


def mamba_ssm_module(name: str) -> ModuleType:
    """`mamba_ssm` or a module of it. Raises QuambaError (exit 5) where it or its extensions are missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise QuambaError(
            "mamba-ssm does not load, so there is nothing to compare with",
            found=str(error),
            allowed="mamba-ssm 2.3 with causal-conv1d and the extension selective_scan_cuda",
            fix="pip install causal-conv1d mamba-ssm, on a machine with nvcc and torch's CUDA build",
            code=ExitCode.INCOMPATIBLE,
        ) from error


def model_fields(config: MambaConfig) -> dict[str, Any]:
    """What mamba_ssm's MambaConfig takes for a model of these sizes."""
    layer = {"d_state": config.d_state, "d_conv": config.d_conv, "expand": config.d_inner // config.d_model}
    if config.kind == "mamba1":
        layer |= {"layer": "Mamba1", "dt_rank": config.dt_rank}
    else:
        layer |= {"layer": "Mamba2", "headdim": config.headdim, "ngroups": config.n_groups}
    return {
        "d_model": config.d_model,
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size,
        "ssm_cfg": layer,
        "tie_embeddings": config.tie_embeddings,
        "pad_vocab_size_multiple": 1,
    }


def random_fp16_model(config: MambaConfig) -> Any:
    torch.manual_seed(0)
    fields = mamba_ssm_module("mamba_ssm.models.config_mamba").MambaConfig(**model_fields(config))
    head_model = mamba_ssm_module("mamba_ssm.models.mixer_seq_simple").MambaLMHeadModel
    return head_model(fields, device=DEVICE, dtype=torch.float16).eval()


class Generation:
    """`batch` sequences of `context` random tokens and what is decoded after them: one pass of `decode`."""

    def __init__(self, model: Any, vocab_size: int, batch: int, context: int) -> None:
        generation = mamba_ssm_module("mamba_ssm.utils.generation")
        self.model, self.sample, self.batch = model, generation.sample, batch
        self.longest = context + 8 * DECODED
        self.prompt = torch.randint(vocab_size, (batch, context))  # (B, L) on the host
        self.cache = generation.update_graph_cache(model, None, batch, context, self.longest)
        self.states = self.cache.inference_params
        self.first_token()

    def first_token(self) -> torch.Tensor:
        """The tokens (B, 1) after the prompt, on the host; states begin anew."""
        self.states.reset(self.longest, self.batch)
        ids = self.prompt.to(DEVICE)
        logits = self.model(ids, inference_params=self.states, num_last_tokens=1).logits.squeeze(1)  # (B, V)
        self.states.seqlen_offset += ids.shape[1]
        return self._choose(logits).cpu()

    def next_token(self) -> None:
        """One more token a sequence, left on the GPU as `self.token`."""
        position = torch.full((self.batch, 1), self.states.seqlen_offset, dtype=torch.long, device=DEVICE)
        logits = self.cache.run(self.token, position, self.states.seqlen_offset).squeeze(1)
        self.states.seqlen_offset += 1
        self._choose(logits)

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        self.logits, self.token = logits, self.sample(logits, top_k=1).unsqueeze(1)
        return self.token

    @property
    def state_bytes(self) -> int:
        """Of one sequence."""
        layers = self.states.key_value_memory_dict.values()
        return sum(state.nbytes for layer in layers for state in layer) // self.batch


def free_running_ms(generation: Generation) -> float:
    """A token's share of DECODED of them with one wait in the end, the median of five runs."""
    shares = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(DECODED):
            generation.next_token()
        torch.cuda.synchronize()
        shares.append((time.perf_counter() - start) / DECODED)
    return 1e3 * median(shares)


def read_token(generation: Generation) -> torch.Tensor:
    """One more token a sequence, in host memory."""
    generation.next_token()
    return generation.token.cpu()


def device_gb_per_s() -> float:
    """Bandwidth of this GPU's memory, in a copy far beyond its L2."""
    source, target = (torch.empty(COPY_BYTES, dtype=torch.uint8, device=DEVICE) for _ in range(2))

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    return copy_gb_per_s(copy, COPY_BYTES)


@torch.inference_mode()
def measure(size: str) -> GpuSpeed:
    """All columns of one model. Raises QuambaError (exit 9) where its logits are not finite."""
    config, speeds = CONFIGS[size], dict[str, dict[str, float]](ttft={}, tpot={}, free_running={}, peak={})
    model, state_bytes = random_fp16_model(config), 0
    for batch in BATCHES:
        lengths = PROMPTS if batch == 1 else PROMPTS[:1]
        generations = {length: Generation(model, config.vocab_size, batch, length) for length in lengths}
        torch.cuda.reset_peak_memory_stats()  # what tuning the kernels took does not count
        if batch == 1:
            speeds["ttft"] = {str(n): milliseconds(g.first_token, TTFT_RUNS) for n, g in generations.items()}
        generation = generations[PROMPTS[0]]
        generation.first_token()
        speeds["tpot"][str(batch)] = milliseconds(partial(read_token, generation), TPOT_RUNS)
        speeds["free_running"][str(batch)] = free_running_ms(generation)
        speeds["peak"][str(batch)] = torch.cuda.max_memory_allocated() / MIB
        state_bytes = generation.state_bytes
        require_finite(generation.logits, size)
        del generation, generations
        gc.collect()
    return GpuSpeed(
        engine=f"mamba-ssm {mamba_ssm_module('mamba_ssm').__version__}, torch {torch.__version__}",
        size=size,
        numbers="fp16",
        gpu=torch.cuda.get_device_name(),
        gb_per_s=device_gb_per_s(),
        weight_bytes=weight_bytes(model, config),
        state_bytes=state_bytes,
        ttft_ms=speeds["ttft"],
        tpot_ms=speeds["tpot"],
        context_tpot_ms={},
        free_running_tpot_ms=speeds["free_running"],
        peak_mib=speeds["peak"],
    )


def weight_bytes(model: Any, config: MambaConfig) -> int:
    """Bytes of all parameters that a token reads; an embedding that is not the head is looked up."""
    unread = 0 if config.tie_embeddings else model.backbone.embedding.weight.nbytes
    return sum(parameter.nbytes for parameter in model.parameters()) - unread


def require_finite(logits: torch.Tensor, size: str) -> None:
    """Speed of numbers that overflowed is no speed."""
    if not bool(torch.isfinite(logits).all()):
        raise QuambaError(
            f"mamba-ssm's {size} overflows in fp16",
            found=f"{int((~torch.isfinite(logits)).sum())} logits of {logits.numel()} not finite",
            allowed="finite logits",
            code=ExitCode.NUMERIC,
        )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="mamba-ssm fp16: TTFT, TPOT, memory.")
    parser.add_argument("sizes", nargs="+", choices=sorted(CONFIGS), metavar="SIZE")
    parser.add_argument("--output", type=Path, help="file to add the lines to")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    for size in arguments.sizes:
        append_speed(arguments.output, measure(size))
        torch.cuda.empty_cache()


if __name__ == "__main__":
    try:
        main()
    except QuambaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
