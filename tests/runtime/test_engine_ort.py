"""The ONNX Runtime engine against the same model in numpy, its states, and files it must refuse."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_recurrent import LAYERS, NumpyEngine, V, onnx_model, state_table, write_tiny_export

from quamba_export.runtime.engine import prefill, stack_states
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.ort_session import session_options


@pytest.fixture(scope="module", params=["float32", "float16"])
def ssm_dtype(request: pytest.FixtureRequest) -> str:
    dtype: str = request.param
    return dtype


@pytest.fixture(scope="module")
def engine(ssm_dtype: str, tmp_path_factory: pytest.TempPathFactory) -> OrtEngine:
    folder = write_tiny_export(tmp_path_factory.mktemp("tiny") / "export", ssm_dtype)
    return OrtEngine(folder / "model.onnx", state_table(ssm_dtype), V, threads=1)


def some_ids(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, V, (batch, length))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 17), (3, 1), (3, 9)])
def test_it_computes_what_numpy_computes(engine: OrtEngine, ssm_dtype: str, batch: int, length: int) -> None:
    ids = some_ids(batch, length)
    if ssm_dtype == "float16":  # the state is rounded after every call: compare the same calls
        wanted, states = prefill(NumpyEngine(ssm_dtype), ids, chunk=1)
        found, after = prefill(engine, ids, chunk=1)
    else:
        wanted, states = prefill(NumpyEngine(ssm_dtype), ids, num_logits=length)
        found, after = prefill(engine, ids, num_logits=length)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    for name in states:
        np.testing.assert_allclose(after[name], states[name], rtol=1e-3, atol=1e-3)
        assert after[name].dtype == states[name].dtype


def test_full_chunked_and_token_by_token_agree(tmp_path: Path) -> None:
    folder = write_tiny_export(tmp_path / "export")
    engine, ids = OrtEngine(folder / "model.onnx", state_table(), V, threads=1), some_ids(2, 21)
    whole, whole_states = prefill(engine, ids, num_logits=21)
    for chunk in (8, 1):
        logits, states = prefill(engine, ids, num_logits=21, chunk=chunk)
        np.testing.assert_allclose(logits, whole, rtol=1e-5, atol=1e-5)
        for name in whole_states:
            np.testing.assert_allclose(states[name], whole_states[name], rtol=1e-5, atol=1e-6)


def test_states_are_consumed_by_a_run_and_live_on_in_a_fork(engine: OrtEngine) -> None:
    _, states = prefill(engine, some_ids(1, 5))
    kept = states.fork()
    saved = {name: array.copy() for name, array in states.items()}
    first, after = engine.run(np.array([[3]]), states)
    with pytest.raises(RuntimeError, match="consumed"):
        engine.run(np.array([[3]]), states)
    for _ in range(3):
        _, after = engine.run(np.array([[7]]), after)
    assert all(np.array_equal(kept[name], saved[name]) for name in saved)
    assert np.array_equal(engine.run(np.array([[3]]), kept)[0], first)


def test_saved_states_are_loaded_again(engine: OrtEngine) -> None:
    _, states = prefill(engine, some_ids(2, 5))
    saved = {name: array.copy() for name, array in states.items()}
    first, _ = engine.run(np.array([[3], [4]]), states)
    second, _ = engine.run(np.array([[3], [4]]), engine.load_states(saved))
    assert np.array_equal(first, second)
    assert len(saved) == 2 * LAYERS


def test_rows_of_a_batch_do_not_see_each_other(engine: OrtEngine) -> None:
    parts = [prefill(engine, some_ids(1, length))[1] for length in (4, 11)]
    apart = [engine.run(np.array([[9]]), states.fork())[0] for states in parts]
    together, _ = engine.run(np.array([[9], [9]]), stack_states(engine, parts))
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-5, atol=1e-5)


def test_logits_of_earlier_runs_are_not_overwritten(engine: OrtEngine) -> None:
    first, states = engine.run(np.array([[3]]), engine.zero_states(1))
    copy = first.copy()
    engine.run(np.array([[4]]), states)
    assert np.array_equal(first, copy)


@pytest.mark.parametrize("batch", [0, -1, 1 << 20])
def test_an_absurd_batch_is_refused(engine: OrtEngine, batch: int) -> None:
    with pytest.raises(QuambaError, match="batch size"):
        engine.zero_states(batch)


def test_states_that_do_not_fit_are_refused_by_name(engine: OrtEngine) -> None:
    arrays = dict(engine.zero_states(2))
    name = "past_conv_states.1"
    with pytest.raises(QuambaError, match=f"'{name}' does not fit") as caught:
        engine.load_states(arrays | {name: arrays[name].astype(np.int16)})
    assert "int16" in caught.value.found
    with pytest.raises(QuambaError, match=f"'{name}' does not fit"):
        engine.load_states(arrays | {name: arrays[name][:1]})
    del arrays[name]
    with pytest.raises(QuambaError, match="not the states of this model"):
        engine.load_states(arrays)


def test_ids_of_another_batch_are_a_programming_error(engine: OrtEngine) -> None:
    with pytest.raises(ValueError, match="3 sequences of ids for the states of 2"):
        engine.run(some_ids(3, 1), engine.zero_states(2))


@pytest.mark.parametrize("threads", [-1, 100_000])
def test_an_absurd_number_of_threads_is_a_usage_error(tmp_path: Path, threads: int) -> None:
    with pytest.raises(QuambaError, match="threads") as caught:
        OrtEngine(tmp_path / "model.onnx", state_table(), V, threads=threads)
    assert caught.value.code is ExitCode.USAGE


def test_a_file_that_is_no_model_is_refused_in_onnxruntimes_words(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(QuambaError, match=r"cannot load .*model\.onnx") as caught:
        OrtEngine(tmp_path / "model.onnx", state_table(), V)
    assert "protobuf" in caught.value.found.lower()


@pytest.mark.parametrize("location", ["../secret.data", "linked.data"])
def test_weights_outside_the_directory_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (tmp_path / "secret.data").write_bytes(bytes(1 << 16))
    (folder / "linked.data").symlink_to(tmp_path / "secret.data")
    model = onnx_model()
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= 512:
            size = len(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(QuambaError, match="cannot load"):
        OrtEngine(folder / "model.onnx", state_table(), V)


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        (lambda table: table[:-1], "past_ssm_states.1"),
        (lambda table: (replace(table[0], dtype="float16"), *table[1:]), "past_conv_states.0"),
        (lambda table: (replace(table[0], shape=(8, 3)), *table[1:]), "past_conv_states.0"),
        (lambda table: (replace(table[0], past="past_conv_states.7"), *table[1:]), "past_conv_states.7"),
        (
            lambda table: (replace(table[0], present="present_conv_states.7"), *table[1:]),
            "present_conv_states.7",
        ),
    ],
)
def test_a_graph_that_does_not_fit_the_state_table_is_refused(tmp_path: Path, change, tensor: str) -> None:  # type: ignore[no-untyped-def]
    folder = write_tiny_export(tmp_path / "export")
    with pytest.raises(QuambaError, match=f"'{tensor}'"):
        OrtEngine(folder / "model.onnx", change(state_table()), V)


def test_a_graph_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_export(tmp_path / "export")
    with pytest.raises(QuambaError, match="'logits'"):
        OrtEngine(folder / "model.onnx", state_table(), V + 8)


def test_a_product_of_doubles_with_a_transpose_loads_in_every_onnxruntime() -> None:
    text = """<ir_version: 9, opset_import: ["": 19]>
        g (double[n, 4] a, double[n, 4] b) => (double[n, n] y)
        { t = Transpose <perm = [1, 0]> (b)  y = MatMul (a, t) }"""
    model = onnx.parser.parse_model(text).SerializeToString()
    session = onnxruntime.InferenceSession(
        model, session_options(1, wide_products=True), providers=["CPUExecutionProvider"]
    )
    a = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(session.run(None, {"a": a, "b": a})[0], a @ a.T)
