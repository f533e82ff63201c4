"""The contracts as C++: one struct a launcher call, one constexpr table an op for the TensorRT plugin.

`python -m quamba_export.plugins.common.c_header FILE` writes the header that the kernels and plugins include;
it is made at every build and never edited, so struct, plugin fields and ONNX schema are one contract.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from quamba_export.plugins.common.contract import RANGES, Attr, OpSpec, Tensor
from quamba_export.plugins.common.registry import get_op, kernel_names

C_TYPE = {"int8": "int8_t", "int32": "int32_t", "float16": "void", "float32": "float"}
CONSTANT = {
    "int8": "QUAMBA_INT8",
    "int32": "QUAMBA_INT32",
    "float16": "QUAMBA_FLOAT16",
    "float32": "QUAMBA_FLOAT32",
}
HEAD = """// Made from the contracts in plugins/*/op.py by plugins/common/c_header.py: do not edit.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct CUstream_st *cudaStream_t;

enum { QUAMBA_INT8 = 0, QUAMBA_INT32 = 1, QUAMBA_FLOAT16 = 2, QUAMBA_FLOAT32 = 3 };

// Descriptions, for plugins/common/plugin.h.
typedef struct {
    const char *name;
    const char *shape;    // letters of the contract, "B L H P"
    unsigned dtypes;      // bits 1 << QUAMBA_*
    int alias;            // outputs: index of the input it overwrites, -1 for none
    size_t pointer;       // offset of the pointer in the struct
    size_t stride;        // offset of the token stride, 0 where the shape does not begin "B L"
    size_t dtype;         // offset of the dtype, 0 where only one is allowed
} QuambaTensor;

typedef struct {
    const char *name;
    int is_float;
    double lowest, highest;
    size_t offset;
} QuambaAttribute;

typedef struct {
    char letter;
    size_t offset;
} QuambaSize;

typedef struct {
    char letter;             // its size is a multiple of
    const char *part;        // another letter or an attribute
} QuambaMultiple;

typedef struct {
    const char *name;
    size_t struct_bytes;
    const QuambaSize *sizes;
    int n_sizes;
    const QuambaAttribute *attributes;
    int n_attributes;
    const QuambaTensor *inputs;
    int n_inputs;
    const QuambaTensor *outputs;
    int n_outputs;
    const QuambaMultiple *multiples;
    int n_multiples;
    const char *(*refusal)(const void *);
    size_t (*workspace)(const void *);
    int (*launch)(const void *, void *, cudaStream_t);
} QuambaOp;
"""


def header() -> str:
    """The whole header: for each op its struct, its C functions and its description."""
    parts = [HEAD]
    for name in kernel_names():
        spec = get_op(name).spec
        parts += [struct(spec), functions(spec), description(spec)]
    names = ", ".join(f"&quamba_{name}" for name in kernel_names())
    parts.append(f"#ifdef __cplusplus\nstatic const QuambaOp *const quamba_ops[] = {{{names}}};\n#endif\n")
    text = "\n".join(parts)
    return f'{text}\n#define QUAMBA_CONTRACTS "{hashlib.sha256(text.encode()).hexdigest()[:16]}"\n'


def contracts_digest() -> str:
    """What a library compiled from these contracts answers to quamba_plugins_version()."""
    return header().rsplit('"', 2)[1]


def letters(spec: OpSpec) -> list[str]:
    """Size letters in order of first appearance; `W-1` is W."""
    found: dict[str, None] = {}
    for tensor in spec.inputs:
        found |= {letter[0]: None for letter in tensor.dims}
    return list(found)


def strided(tensor: Tensor) -> bool:
    """Whether the tensor is one row a token, which may be part of a wider row."""
    return tensor.dims[:2] == ("B", "L")


def struct(spec: OpSpec) -> str:
    """What a launcher is given. Rows of a strided input lie `*_stride` elements apart."""
    lines = [f"struct {{ int64_t {', '.join(letters(spec))}; }} size;"]  # apart: B and C name tensors too
    lines += [f"{'float' if attr.type == 'float' else 'int32_t'} {attr.name};" for attr in spec.attrs]
    lines += [f"const {_pointer(tensor)};" for tensor in spec.inputs]
    lines += [f"{_pointer(tensor)};" for tensor in spec.outputs]
    lines += [f"int64_t {tensor.name}_stride;" for tensor in spec.inputs if strided(tensor)]
    lines += [f"int32_t {tensor.name}_dtype;" for tensor in spec.inputs if len(tensor.allowed) > 1]
    body = "\n".join(f"    {line}" for line in lines)
    return f"typedef struct {{\n{body}\n}} Quamba{spec.name};\n"


def functions(spec: OpSpec) -> str:
    """refusal: NULL, or why the sizes are not supported; workspace: bytes; launch: a cudaError_t."""
    call = f"const Quamba{spec.name} *"
    return f"""#ifdef __cplusplus
extern "C" {{
#endif
#pragma GCC visibility push(default)
const char *quamba_{spec.name}_refusal({call});
size_t quamba_{spec.name}_workspace({call});
int quamba_{spec.name}_launch({call}, void *workspace, cudaStream_t stream);
#pragma GCC visibility pop
#ifdef __cplusplus
}}
#endif
"""


def description(spec: OpSpec) -> str:
    """The same contract as data, C++ only."""
    kind, name = f"Quamba{spec.name}", spec.name
    sizes = [f"{{'{letter}', offsetof({kind}, size.{letter})}}" for letter in letters(spec)]
    attributes = [_attribute(kind, attr) for attr in spec.attrs]
    inputs = [_tensor(kind, tensor, spec) for tensor in spec.inputs]
    outputs = [_tensor(kind, tensor, spec) for tensor in spec.outputs]
    multiples = [f"{{'{letter}', \"{part}\"}}" for letter, part in spec.multiples]
    tables = {
        "QuambaSize": ("sizes", sizes),
        "QuambaAttribute": ("attributes", attributes),
        "QuambaTensor": ("inputs", inputs),
        "QuambaTensor ": ("outputs", outputs),
        "QuambaMultiple": ("multiples", multiples),
    }
    lines = [
        f"static const {type_.strip()} quamba_{name}_{table}[] = {{{', '.join(rows)}}};"
        for type_, (table, rows) in tables.items()
        if rows
    ]
    fields = [f"quamba_{name}_{table}, {len(rows)}" if rows else "0, 0" for table, rows in tables.values()]
    lines.append(
        f'static const QuambaOp quamba_{name} = {{"{name}", sizeof({kind}), {", ".join(fields)},\n'
        f"    (const char *(*)(const void *))quamba_{name}_refusal,\n"
        f"    (size_t (*)(const void *))quamba_{name}_workspace,\n"
        f"    (int (*)(const void *, void *, cudaStream_t))quamba_{name}_launch}};"
    )
    return "#ifdef __cplusplus\n" + "\n".join(lines) + "\n#endif\n"


def _pointer(tensor: Tensor) -> str:
    kind = C_TYPE[tensor.allowed[0]] if len(tensor.allowed) == 1 else "void"
    return f"{kind} *{tensor.name}"


def _attribute(kind: str, attr: Attr) -> str:
    low, high, _ = RANGES[attr.values]
    return f'{{"{attr.name}", {int(attr.type == "float")}, {low!r}, {high!r}, offsetof({kind}, {attr.name})}}'


def _tensor(kind: str, tensor: Tensor, spec: OpSpec) -> str:
    dtypes = " | ".join(f"1u << {CONSTANT[dtype]}" for dtype in tensor.allowed)
    is_input = tensor in spec.inputs
    names = [t.name for t in spec.inputs]
    alias = names.index(tensor.aliases) if tensor.aliases else -1
    stride = f"offsetof({kind}, {tensor.name}_stride)" if is_input and strided(tensor) else "0"
    dtype = f"offsetof({kind}, {tensor.name}_dtype)" if is_input and len(tensor.allowed) > 1 else "0"
    pointer = f"offsetof({kind}, {tensor.name})"
    return f'{{"{tensor.name}", "{tensor.shape}", {dtypes}, {alias}, {pointer}, {stride}, {dtype}}}'


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m quamba_export.plugins.common.c_header FILE")
    Path(sys.argv[1]).write_text(header(), encoding="utf-8")
