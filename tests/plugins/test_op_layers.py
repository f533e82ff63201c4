"""Folder, torch op, reference and README of every op say what its contract says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from op_cases import ALL, Case, cases_of

from quamba_export.plugins.common.contract import OpSpec, Tensor
from quamba_export.plugins.common.registry import PLUGINS, get_op, op_names
from quamba_export.plugins.common.torch_op import schema
from quamba_export.runtime.errors import QuambaError

OPS = op_names()
SPECS = [get_op(name).spec for name in OPS]


def input_id(value: object) -> str | None:
    return value.name if isinstance(value, OpSpec) else None


def test_every_folder_is_an_op_with_all_its_parts() -> None:
    folders = {path.name for path in PLUGINS.iterdir() if path.is_dir()} - {"common", "__pycache__"}
    assert folders == set(OPS)
    for name in OPS:
        assert (PLUGINS / name / "README.md").is_file(), name
        assert cases_of(name), f"no cases for {name}"


def test_unknown_op_is_refused() -> None:
    with pytest.raises(QuambaError, match="no op named 'QuantizedConv'") as caught:
        get_op("QuantizedConv")
    assert caught.value.allowed == ", ".join(OPS)


@pytest.mark.parametrize("name", OPS)
def test_folder_contract_and_torch_op_have_one_name(name: str) -> None:
    op = get_op(name)
    assert op.spec.name == name
    assert op.torch_op.name() == f"{op.spec.domain}::{name}"  # type: ignore[attr-defined]
    assert getattr(torch.ops.quamba, name).default is op.torch_op


@pytest.mark.parametrize("name", OPS)
def test_torch_schema_is_the_contract(name: str) -> None:
    op = get_op(name)
    found = op.torch_op._schema  # type: ignore[attr-defined]
    tensors = [a.name for a in found.arguments if not a.kwarg_only]
    numbers = {a.name: str(a.type) for a in found.arguments if a.kwarg_only}
    assert tensors == [t.name for t in op.spec.inputs]
    assert numbers == {a.name: a.type for a in op.spec.attrs}
    assert all(a.default_value is None and a.alias_info is None for a in found.arguments)
    assert [str(r.type) for r in found.returns] == ["Tensor"] * len(op.spec.outputs)
    assert schema(op.spec).startswith(f"{name}(Tensor {tensors[0]}")


@pytest.mark.parametrize("name", OPS)
def test_reference_has_the_contract_s_signature(name: str) -> None:
    op = get_op(name)
    parameters = inspect.signature(op.reference).parameters.values()
    assert [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD] == [
        t.name for t in op.spec.inputs
    ]
    assert [p.name for p in parameters if p.kind == p.KEYWORD_ONLY] == [a.name for a in op.spec.attrs]
    assert all(p.default is p.empty for p in parameters)


def decode_cases() -> list[Case]:
    """One small case an op, and one a state dtype."""
    wanted = re.compile(r"decode|E_16|odd_sizes_(float32|int8)")
    return [case for case in ALL if wanted.match(case.name)]


@pytest.mark.parametrize("case", decode_cases(), ids=str)
def test_torch_op_passes_opcheck(case: Case) -> None:
    inputs = [torch.from_numpy(array) for array in case.inputs.values()]
    torch.library.opcheck(get_op(case.op).torch_op, inputs, dict(case.attrs))


# README


def readme_table(path: Path) -> list[tuple[str, ...]]:
    """(kind, name, dtype, shape, aliases) of every row of the contract table."""
    rows = [line for line in path.read_text().splitlines() if re.match(r"\| (input|output|attribute) ", line)]
    return [tuple(cell.strip().replace("`", "") for cell in row.strip("|").split("|")[:5]) for row in rows]


def contract_table(spec: OpSpec) -> list[tuple[str, ...]]:
    def dtypes(tensor: Tensor) -> str:
        if len(tensor.allowed) == 1:
            return tensor.allowed[0]
        return (
            f"as {tensor.aliases}"
            if tensor.aliases
            else f"{', '.join(tensor.allowed[:-1])} or {tensor.allowed[-1]}"
        )

    tensors = [("input", t) for t in spec.inputs] + [("output", t) for t in spec.outputs]
    rows = [(kind, t.name, dtypes(t), t.shape, t.aliases or "") for kind, t in tensors]
    words = {"positive": "{} > 0", "any": "{}", "flag": "0 or 1", "count": "{} >= 0"}
    return rows + [("attribute", a.name, words[a.values].format(a.type), "", "") for a in spec.attrs]


@pytest.mark.parametrize("spec", SPECS, ids=input_id)
def test_readme_says_what_the_contract_says(spec: OpSpec) -> None:
    path = PLUGINS / spec.name / "README.md"
    assert path.read_text().startswith(f"# {spec.name}\n")
    assert readme_table(path) == contract_table(spec)
    multiples = re.findall(r"`(\w+)` is a multiple of `(\w+)`", path.read_text())
    assert multiples == list(spec.multiples)


@pytest.mark.parametrize("spec", SPECS, ids=input_id)
def test_readme_names_every_letter(spec: OpSpec) -> None:
    legend = re.search(r"^Letters: (.*?)\.", (PLUGINS / spec.name / "README.md").read_text(), re.MULTILINE)
    assert legend is not None
    named = set(re.findall(r"\b([A-Z])\b", legend[1]))
    assert named == {dim[0] for t in (*spec.inputs, *spec.outputs) for dim in t.dims}


def test_a_changed_readme_is_noticed(tmp_path: Path) -> None:
    spec = get_op("QuantizedCausalConv1d").spec
    text = (PLUGINS / spec.name / "README.md").read_text()
    for old, new in (
        ("B C W-1", "B C W"),
        ("| int8 |", "| int32 |"),
        ("| `state` | the", "| | the"),
        ("`bias`", "`b`"),
    ):
        assert old in text
        (tmp_path / "README.md").write_text(text.replace(old, new, 1))
        assert readme_table(tmp_path / "README.md") != contract_table(spec)
