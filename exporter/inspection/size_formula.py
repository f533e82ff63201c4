"""How large an export's weights have to be, by the shapes of its config: the formula they are held to.

Projections, embedding and head at their bits, two bytes for the scale of every row (8 bits) or group of 128
columns (4 bits), and the small tensors as the ops read them. Tokenizer, graph and file headers are beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.qformat import BLOCKS, BlockWidths, QFormat, qformat_named
from quamba_export.calib.recipes.recipe import default_recipe
from quamba_export.exporter.graph.onnx_backend import ELEMENT
from quamba_export.plugins.common.int4 import GROUP

SCALE_BYTES = 2


@dataclass(frozen=True)
class SizeFormula:
    """Bytes: of projections, embedding and head; of their scales; of everything else."""

    weights: int
    scales: int
    small: int

    @property
    def total(self) -> int:
        return self.weights + self.scales + self.small


def size_formula(config: MambaConfig, widths: QFormat, blocks: Sequence[BlockWidths]) -> SizeFormula:
    """The formula for a model of `config` whose layers have the widths `blocks`."""
    matrices = [
        (config.vocab_size, config.d_model, widths.embedding_bits),
        (config.vocab_size, config.d_model, widths.head_bits),
    ]
    for block in blocks:
        matrices += [(*shape, block.bits(name)) for name, shape in projections(config).items()]
    return SizeFormula(
        weights=sum(rows * columns * bits // 8 for rows, columns, bits in matrices),
        scales=sum(SCALE_BYTES * rows * _scales_a_row(columns, bits) for rows, columns, bits in matrices),
        small=sum(_small(config, block) for block in blocks),
    )


def projections(config: MambaConfig) -> dict[str, tuple[int, int]]:
    """(M, K) of a layer's projections."""
    shapes = {"in_proj": (config.d_in_proj, config.d_model), "out_proj": (config.d_model, config.d_inner)}
    if config.kind == "mamba1":
        shapes["x_proj"] = (config.dt_rank + 2 * config.d_state, config.d_inner)
        shapes["dt_proj"] = (config.d_inner, config.dt_rank)
    return shapes


def _scales_a_row(columns: int, bits: int) -> int:
    return {4: -(-columns // GROUP), 8: 1}.get(bits, 0)


def _small(config: MambaConfig, block: BlockWidths) -> int:
    """A layer's biases, convolution, scan parameters, norm and scales of activations."""
    codes, rows = block.activation_bits == 8, {name: m for name, (m, _) in projections(config).items()}
    biases = 4 * sum(rows.values())
    scales = biases - 4 * rows["out_proj"] if codes else 0  # of what a projection writes, for every row
    weight = config.conv_dim * config.d_conv * (1 if codes else 4)
    conv = weight + 4 * config.conv_dim * (4 if codes else 1)
    if config.kind == "mamba1":
        return biases + scales + conv + config.d_inner * (config.d_state + 2) * (1 if codes else 4)
    scan = 4 * 3 * config.n_heads + 4 * config.d_inner  # A_log, D, dt_bias and the gated norm
    return biases + scales + conv + scan + (_tables(config) if codes else 0)


def _tables(config: MambaConfig) -> int:
    """Scales of x, B, C and the state of a Mamba-2 layer by the default recipe, and the index into them."""
    groups = default_recipe(config).groups(config) or (1, 1)
    entries = config.n_groups * math.prod(groups)
    return 4 * (entries * (1 + config.d_state) + 2 * config.n_groups + config.n_heads * config.headdim)


def graph_formula(config: MambaConfig, qformat: str, graph: onnx.GraphProto) -> SizeFormula:
    """The formula for an exported graph, whose constants and states say what widths its blocks have."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    states = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    blocks = [_block(i, config, constants, states) for i in range(config.n_layer)]
    return size_formula(config, qformat_named(qformat), blocks)


def _block(
    i: int, config: MambaConfig, constants: Mapping[str, onnx.TensorProto], states: Mapping[str, int]
) -> BlockWidths:
    weight = constants[f"layers.{i}.in_proj.weight"]
    wide = {int(ELEMENT["int8"]): 8, int(ELEMENT["float16"]): 16, int(ELEMENT["float32"]): 32}
    bits = wide[weight.data_type] * weight.dims[1] // config.d_model
    activation = wide[states[f"past_conv_states.{i}"]]
    return next(b for b in BLOCKS.values() if (b.weight_bits, b.activation_bits) == (bits, activation))


def constant_bytes(constants: Iterable[onnx.TensorProto]) -> dict[str, int]:
    """Bytes of every constant, by name."""
    return {
        tensor.name: math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in constants
    }
