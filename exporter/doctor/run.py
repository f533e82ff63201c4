"""What `doctor` lets run: one kernel of a plugin library, and a bundle's model against itself.

A library that loads may still hold no code for this GPU, or code for a later driver: only a launch tells. A
model is fed fixed tokens as a whole and one by one, which in a TensorRT bundle are different plans and
different kernels, and must come to the same states.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quamba_export.exporter.doctor.checks import Check, Use
from quamba_export.exporter.doctor.gpu import GPU
from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.manifest import read_manifest

ROWS, COLUMNS = 4, 50288  # of the logits: a batch, a usual vocabulary
TOKENS = 24  # of the prompt
REMAKE = "make it anew on this machine: quamba-export build export/ --target TARGET -o bundle/"


def check_kernel(library: Path, before: Sequence[Check]) -> Check:
    """Launch quamba_argmax of the library and compare what it chose. before: what a launch needs."""
    name, purpose = "kernel", "the ops in engines"
    if lacking := [check for check in before if check.state != "ok"]:
        found = f"not run: {lacking[0].name} {lacking[0].state}"
        return Check(name, "missing", found, GPU, purpose, lacking[0].fix)
    try:
        chosen, wanted = launched_argmax(library)
    except QuambaError as error:
        return Check(name, "wrong", f"{error.message}: {error.found}", GPU, purpose, error.fix or REMAKE)
    if chosen != wanted:
        return Check(name, "wrong", f"argmax chose {chosen} instead of {wanted}", GPU, purpose, REMAKE)
    return Check(name, "ok", f"argmax of {ROWS} x {COLUMNS} logits on the GPU is right", GPU, purpose, "")


def launched_argmax(library: Path) -> tuple[list[int], list[int]]:
    """What the GPU chose of logits whose largest is known, and where that is. Raises QuambaError."""
    import numpy as np

    from quamba_export.runtime.cuda import Cuda
    from quamba_export.runtime.device_argmax import argmax_of
    from quamba_export.runtime.tensorrt_library import load_plugins, plugin_functions

    load_plugins(library)
    cuda = Cuda()
    wanted = [0, 1, COLUMNS // 2 + 1, COLUMNS - 1]  # ends, and inside
    logits, tokens = cuda.pinned((ROWS, COLUMNS), np.float32), cuda.pinned((ROWS,), np.int64)
    logits.array[:] = -1.0
    logits.array[range(ROWS), wanted] = 1.0
    device, chosen = cuda.allocate(logits.nbytes), cuda.allocate(tokens.nbytes)
    cuda.copy(device.address, logits.address, logits.nbytes)
    argmax_of(plugin_functions(), cuda)(device.address, ROWS, COLUMNS, chosen.address)
    cuda.copy(tokens.address, chosen.address, tokens.nbytes)
    cuda.synchronize()
    return tokens.array.tolist(), wanted


def check_model(bundle: Path, before: Sequence[Check]) -> Check:
    """Feed a bundle's or export's model a prompt as a whole, then token by token.

    before: what was checked; that which the model's backend needs decides whether it runs.
    """
    backend = read_manifest(bundle).backend
    uses: tuple[Use, ...] = ("gpu-run",) if backend == "tensorrt" else ("cpu",)
    name, purpose = "model", "this bundle"
    if lacking := [check for check in before if check.state != "ok" and uses[0] in check.needed_for]:
        found = f"not run: {lacking[0].name} {lacking[0].state}"
        return Check(name, "missing", found, uses, purpose, lacking[0].fix)
    try:
        findings = compared_with_itself(bundle)
    except QuambaError as error:
        return Check(name, "wrong", f"{error.message}: {error.found}", uses, purpose, error.fix or REMAKE)
    for what, good, found in findings:
        if not good:
            return Check(name, "wrong", f"{what}: {found}", uses, purpose, REMAKE)
    found = f"{bundle} runs in {backend}: {TOKENS} tokens at once and one by one, {findings[0][2]}"
    return Check(name, "ok", found, uses, purpose, "")


def compared_with_itself(bundle: Path) -> list[tuple[str, bool, str]]:
    """What was compared, whether it is good, and what was found. Raises QuambaError."""
    import numpy as np

    from quamba_export.exporter.tensorrt.engine_comparison import compare_call
    from quamba_export.runtime.bundle import open_model

    manifest, engine = open_model(bundle)
    ids = np.arange(1, TOKENS + 1)[None] * 37 % manifest.vocab_size
    whole = engine.run(ids, engine.zero_states(1))
    states = engine.zero_states(1)
    for t in range(TOKENS):
        logits, states = engine.run(ids[:, t : t + 1], states)
    findings = compare_call("at once against one by one", whole, (logits, states))
    return [(finding.what, finding.good, finding.found) for finding in findings]
