"""A tiny recurrent language model with the runtime's contract: in numpy, and as an ONNX graph in export/.

Per layer: x is quantized to int8 codes, a causal convolution of width 3 runs over them with the last two
codes carried as `conv` state, and a decaying sum with N parts a channel is carried as `ssm` state.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from quamba_export.runtime.engine import Engine, Ids, Logits, States
from quamba_export.runtime.manifest import StateTensor, files_of

LAYERS, D, N, W = 2, 8, 4, 3
EOS = 0
Arrays = dict[str, NDArray[Any]]


def byte_level_tokenizer() -> Tokenizer:
    """Every byte is a token, a few merges, and <|endoftext|> as id 0."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a")]
    names = ["<|endoftext|>", *alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return tokenizer


V = byte_level_tokenizer().get_vocab_size()


def state_table(ssm_dtype: str = "float32") -> tuple[StateTensor, ...]:
    return tuple(
        StateTensor(f"past_{kind}_states.{i}", f"present_{kind}_states.{i}", dtype, shape)
        for kind, dtype, shape in (("conv", "int8", (D, W - 1)), ("ssm", ssm_dtype, (D, N)))
        for i in range(LAYERS)
    )


def weights(vocab_size: int = V) -> Arrays:
    random = np.random.default_rng(1)
    arrays = {
        "embedding": random.integers(-12, 13, (vocab_size, D)).astype(np.float32) / 8,
        "head": random.standard_normal((D, vocab_size)).astype(np.float32),
        "decay": np.array([0.5, 0.75, 0.875, 0.9375], dtype=np.float32),
        "read": np.array([1, -1, 0.5, 0.25], dtype=np.float32),
    }
    taps = {f"conv.{i}": random.standard_normal((W, D)).astype(np.float32) / 16 for i in range(LAYERS)}
    return arrays | taps


class ArrayStates(States):
    """Plain arrays that can be used once."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays: Arrays | None = arrays
        self.batch = next(iter(arrays.values())).shape[0]

    def __getitem__(self, name: str) -> NDArray[Any]:
        assert self.arrays is not None, "consumed"
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        assert self.arrays is not None, "consumed"
        return iter(self.arrays)

    def __len__(self) -> int:
        return 2 * LAYERS

    def fork(self) -> "ArrayStates":
        return ArrayStates({name: array.copy() for name, array in self.items()})


class NumpyEngine(Engine):
    """The model in numpy, a token at a time; `calls` are the (B, L) it was run with."""

    def __init__(self, ssm_dtype: str = "float32", *, nan_after: int | None = None) -> None:
        self.vocab_size, self.table, self.weights = V, state_table(ssm_dtype), weights()
        self.calls: list[tuple[int, int]] = []
        self.nan_after = nan_after  # logits become NaN after so many calls

    def zero_states(self, batch: int) -> ArrayStates:
        return ArrayStates({s.past: np.zeros((batch, *s.shape), s.dtype) for s in self.table})

    def load_states(self, arrays: Mapping[str, NDArray[Any]]) -> ArrayStates:
        return ArrayStates(dict(arrays))

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, ArrayStates]:
        arrays = dict(states)
        assert isinstance(states, ArrayStates)
        states.arrays = None
        self.calls.append(input_ids.shape)
        columns = [self.token(input_ids[:, t], arrays) for t in range(input_ids.shape[1])]
        logits = np.stack(columns[-num_logits:], axis=1)
        if self.nan_after is not None and len(self.calls) > self.nan_after:
            logits[:] = np.nan
        return logits, ArrayStates(arrays)

    def token(self, ids: Ids, arrays: Arrays) -> Logits:
        """ids (B,) -> logits (B, V); arrays are replaced."""
        w = self.weights
        x = w["embedding"][ids]  # (B, D)
        for i in range(LAYERS):
            conv, ssm = f"past_conv_states.{i}", f"past_ssm_states.{i}"
            codes = np.clip(np.rint(x * 8), -128, 127).astype(np.int8)
            window = np.concatenate([arrays[conv], codes[:, :, None]], axis=2)  # (B, D, W)
            arrays[conv] = window[:, :, 1:]
            u = np.tanh((window * w[f"conv.{i}"].T).sum(axis=2, dtype=np.float32))
            h = arrays[ssm].astype(np.float32) * w["decay"] + u[:, :, None]  # (B, D, N)
            arrays[ssm] = h.astype(arrays[ssm].dtype)
            x = x + (h * w["read"]).sum(axis=2, dtype=np.float32)
        return np.stack([row @ w["head"] for row in x])  # a BLAS may round a row otherwise in company


def onnx_model(ssm_dtype: str = "float32", vocab_size: int = V) -> onnx.ModelProto:
    """The same model as a graph with the exported graph's inputs and outputs."""
    table = state_table(ssm_dtype)
    types = {"int8": TensorProto.INT8, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
    info = helper.make_tensor_value_info
    inputs = [info("input_ids", TensorProto.INT64, ["batch", "length"])]
    inputs += [info("num_logits_to_keep", TensorProto.INT64, [])]
    inputs += [info(s.past, types[s.dtype], ["batch", *s.shape]) for s in table]
    outputs = [info("logits", TensorProto.FLOAT, ["batch", "kept", vocab_size])]
    outputs += [info(s.present, types[s.dtype], ["batch", *s.shape]) for s in table]
    constants: Arrays = weights(vocab_size) | {
        "eight": np.float32(8),
        "one": np.array([1]),
        "low": np.float32(-128),
        "high": np.float32(127),
        "last_axis": np.array([-1]),
        "minus_two": np.array([-2]),
        "end": np.array([1 << 40]),
        "axis_1": np.array([1]),
        **{f"tap_from.{k}": np.array([k]) for k in range(W)},
        **{f"tap_to.{k}": np.array([k - W + 1 if k < W - 1 else 1 << 40]) for k in range(W)},
    }
    taps = {f"conv.{i}.{k}": constants[f"conv.{i}"][k] for i in range(LAYERS) for k in range(W)}
    nodes = [helper.make_node("Gather", ["embedding", "input_ids"], ["x0"])]
    for i in range(LAYERS):
        nodes += layer_nodes(i, types[ssm_dtype])
    nodes += [
        helper.make_node("Neg", ["num_logits_to_keep"], ["minus_kept"]),
        helper.make_node("Reshape", ["minus_kept", "one"], ["first"]),
        helper.make_node("Slice", [f"x{LAYERS}", "first", "end", "axis_1"], ["kept_x"]),
        helper.make_node("MatMul", ["kept_x", "head"], ["logits"]),
    ]
    for i in range(LAYERS):
        del constants[f"conv.{i}"]
    initializers = [numpy_helper.from_array(np.asarray(a), name) for name, a in (constants | taps).items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def layer_nodes(i: int, ssm_type: int) -> list[onnx.NodeProto]:
    node = helper.make_node
    body = helper.make_graph(
        [
            node("Mul", ["h", "decay"], ["decayed"]),
            node("Unsqueeze", ["u_t", "last_axis"], ["u_column"]),
            node("Add", ["decayed", "u_column"], ["h_next"]),
            node("Mul", ["h_next", "read"], ["parts"]),
            node("ReduceSum", ["parts", "last_axis"], ["y_t"], keepdims=0),
            node("Identity", ["h_next"], ["h_out"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("h", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("u_t", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("y_t", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        node("Mul", [f"x{i}", "eight"], [f"scaled{i}"]),
        node("Round", [f"scaled{i}"], [f"rounded{i}"]),
        node("Clip", [f"rounded{i}", "low", "high"], [f"clipped{i}"]),
        node("Transpose", [f"clipped{i}"], [f"columns{i}"], perm=[0, 2, 1]),
        node("Cast", [f"columns{i}"], [f"codes{i}"], to=TensorProto.INT8),
        node("Concat", [f"past_conv_states.{i}", f"codes{i}"], [f"window{i}"], axis=2),
        node("Slice", [f"window{i}", "minus_two", "end", "last_axis"], [f"present_conv_states.{i}"]),
        node("Cast", [f"window{i}"], [f"values{i}"], to=TensorProto.FLOAT),
        node("Transpose", [f"values{i}"], [f"rows{i}"], perm=[0, 2, 1]),
    ]
    for k in range(W):
        nodes.append(node("Slice", [f"rows{i}", f"tap_from.{k}", f"tap_to.{k}", "axis_1"], [f"tap{i}.{k}"]))
        nodes.append(node("Mul", [f"tap{i}.{k}", f"conv.{i}.{k}"], [f"product{i}.{k}"]))
    return [
        *nodes,
        node("Sum", [f"product{i}.{k}" for k in range(W)], [f"sum{i}"]),
        node("Tanh", [f"sum{i}"], [f"u{i}"]),
        node("Cast", [f"past_ssm_states.{i}"], [f"h{i}"], to=TensorProto.FLOAT),
        node(
            "Scan",
            [f"h{i}", f"u{i}"],
            [f"h_end{i}", f"y{i}"],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        ),
        node("Cast", [f"h_end{i}"], [f"present_ssm_states.{i}"], to=ssm_type),
        node("Add", [f"x{i}", f"y{i}"], [f"x{i + 1}"]),
    ]


def write_tiny_export(folder: Path, ssm_dtype: str = "float32") -> Path:
    """An export/ directory of the tiny model, with its tokenizer."""
    folder.mkdir(parents=True)
    onnx.save_model(
        onnx_model(ssm_dtype),
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=512,
    )
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}))
    record = {
        "schema_version": 1,
        "kind": "export",
        "producer": "quamba-export test",
        "checkpoint_digest": "a" * 64,
        "calibration_digest": None,
        "qformat": "w8a8",
        "config": {"vocab_size": V},
        "eos_token_id": EOS,
        "states": [
            {"past": s.past, "present": s.present, "dtype": s.dtype, "shape": list(s.shape)}
            for s in state_table(ssm_dtype)
        ],
        "files": files_of(folder),
    }
    (folder / "export.json").write_text(json.dumps(record))
    return folder
