"""How ONNX Runtime is imported and set up, for the engine and for the probe of its integer products."""

from __future__ import annotations

from typing import Any

from quamba_export.runtime.errors import ExitCode, QuambaError

MAX_THREADS = 1024


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
