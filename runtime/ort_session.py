"""How ONNX Runtime is imported and set up, for the engine and for the probe of its integer products."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any, Literal

from quamba_export.runtime.errors import ExitCode, QuambaError

MAX_THREADS = 1024
Provider = Literal["cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def import_onnxruntime() -> Any:
    """ONNX Runtime, imported when it is needed: the rest of the runtime starts without it."""
    import onnxruntime

    return onnxruntime


def session_options(threads: int, *, wide_products: bool) -> Any:
    """Options of every session here. threads: intra-op threads, 0 for one a physical core.

    - wide_products: `session.x64quantprecision`, exact integer products on x86-64 without VNNI; slower, and
      it rewrites graphs on other hosts too, so only where vnni_probe.py finds the need.
    - MatmulTransposeFusion: 1.20 to 1.23 at least make a FusedMatMul of doubles, have no kernel for it and
      refuse the model; 1.23 is the last release for Python 3.10.
    - enable_mem_pattern: off, because it keeps one plan for every (B, L) ever seen.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise QuambaError(
            "wrong number of threads", found=str(threads), allowed=f"0 to {MAX_THREADS}", code=ExitCode.USAGE
        )
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", str(int(wide_products)))
    options.add_session_config_entry("optimization.disable_specified_optimizers", "MatmulTransposeFusion")
    return options


def execution_providers(provider: Provider) -> list[Any]:
    """What InferenceSession is to run nodes with, the wanted provider first.

    CUDA multiplies fp32 as fp32, not as TF32: it is to give the CPU's numbers. Raises QuambaError (exit 5)
    where the installed onnxruntime was built without the provider.
    """
    onnxruntime, name = import_onnxruntime(), PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if name not in available:
        raise QuambaError(
            f"onnxruntime {onnxruntime.__version__} has no {name}",
            found=", ".join(available),
            allowed=f"an onnxruntime built with {name}",
            fix="pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]' (both are one module)",
            code=ExitCode.INCOMPATIBLE,
        )
    if provider == "cpu":
        return [name]
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21: finds CUDA and cuDNN in NVIDIA's wheels
        with redirect_stdout(sys.stderr):  # where it complains of what it does not find
            onnxruntime.preload_dlls()
    return [(name, {"use_tf32": "0"}), PROVIDERS["cpu"]]


def check_active(session: Any, provider: Provider) -> None:
    """Refuse (exit 5) a session that ONNX Runtime quietly made without the provider it was asked for."""
    active = session.get_providers()
    if PROVIDERS[provider] not in active:
        raise QuambaError(
            f"ONNX Runtime could not start {PROVIDERS[provider]}; its reason is on stderr",
            found=", ".join(active),
            allowed=PROVIDERS[provider],
            fix="see `nvidia-smi`, and that CUDA and cuDNN are those of this onnxruntime-gpu",
            code=ExitCode.INCOMPATIBLE,
        )
