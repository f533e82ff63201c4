"""One set of cases an op, for all of its implementations: PyTorch reference, ONNX function, kernels.

A case is plain numpy arrays and numbers with a fixed seed; nothing of torch is in it.
"""

from __future__ import annotations

from op_cases import conv, floats, half, head, int4, linear, norms, scan_input, scans, step
from op_cases.drawing import Case
from quamba_export.plugins.common.registry import kernel_names

ALL: tuple[Case, ...] = (
    *norms.CASES,
    *linear.CASES,
    *conv.CASES,
    *scans.CASES,
    *step.CASES,
    *head.CASES,
    *int4.CASES,
    *half.CASES,
    *floats.CASES,
    *scan_input.CASES,
)

COMPILED: tuple[Case, ...] = tuple(case for case in ALL if case.op in kernel_names())

__all__ = ["ALL", "COMPILED", "Case", "case_named", "cases_of"]


def cases_of(op: str) -> list[Case]:
    """All cases of the op, in a fixed order."""
    return [case for case in ALL if case.op == op]


def case_named(op: str, name: str) -> Case:
    """The one case of that op and name."""
    (found,) = [case for case in cases_of(op) if case.name == name]
    return found
