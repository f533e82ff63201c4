"""Whether a TensorRT bundle's plans are for this machine, and for what its manifest says of them."""

from __future__ import annotations

import re

from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import StateTensor
from quamba_export.runtime.tensorrt_plan import Signature


def tensors_of(
    record: EngineRecord, states: tuple[StateTensor, ...], vocab_size: int
) -> dict[str, Signature]:
    """Inputs and outputs of a plan by name; -1 where B, L or the number of logits stands."""
    tensors: dict[str, Signature] = {
        "input_ids": ("int64", (-1, -1)),
        "logits": ("float32", (-1, -1, vocab_size)),
    }
    for state in states:
        tensors |= dict.fromkeys((state.past, state.present), (state.dtype, (-1, *state.shape)))
    return tensors | {weight.name: (weight.dtype, weight.shape) for weight in record.weights}


def check_machine(record: EngineRecord, tensorrt: str, sm: int, *, lean: bool) -> None:
    """A plan runs on the kind of GPU that built it, and in the TensorRT that did.

    A version-compatible one also runs in later TensorRTs of that major version, and in the lean runtime.
    """
    if record.version_compatible:
        here, built = version_of(tensorrt), version_of(record.tensorrt)
        major = built[0] if built else "one"
        runs, allowed = built <= here and major == here[0], f"{record.tensorrt} or a later {major}"
    else:
        runs, allowed = tensorrt == record.tensorrt and not lean, f"{record.tensorrt}, not its lean runtime"
    for what, good, found, wanted in (
        ("TensorRT", runs, f"{tensorrt}{', the lean runtime' if lean else ''}", allowed),
        ("GPU", record.sm == sm, f"sm_{sm}", f"sm_{record.sm}"),
    ):
        if not good:
            raise QuambaError(
                f"this bundle was built for another {what}",
                found=f"{what} {found} here",
                allowed=f"{what} {wanted}",
                fix="build it on this machine: `quamba-export build export/ --target ... -o bundle/`",
                code=ExitCode.INCOMPATIBLE,
            )


def version_of(text: str) -> tuple[int, ...]:
    """Major, minor and patch: (10, 6, 0) of "10.6.0.post1"."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def check_contracts(record: EngineRecord, contracts: str) -> None:
    """The plugin library must be made of the contracts that the plans were built with."""
    if record.contracts != contracts:
        raise QuambaError(
            "libquamba_plugins.so is not the library that the plans were built with",
            found=f"contracts {contracts}",
            allowed=f"contracts {record.contracts}",
            fix="build the bundle anew with one release: `quamba-export build`",
            code=ExitCode.INCOMPATIBLE,
        )
