"""States in a file: what is saved comes back in every engine, and nothing else is believed."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_records import engine_record
from fake_cuda import FakeCuda, FakePlan, fake_argmax
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from safetensors.numpy import load_file
from tiny_recurrent import ArrayStates, NumpyEngine, V, state_table, write_tiny_export

from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.decoder import HostDecoder
from quamba_export.runtime.device_weights import DeviceWeights
from quamba_export.runtime.engine import Engine, prefill
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.engine_record import WeightTensor
from quamba_export.runtime.engine_tensorrt import TrtEngine
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.history import History, history_after
from quamba_export.runtime.manifest import Manifest, manifest_for, read_manifest
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.saved_states import SavedStates, feed, load_states, save_states

ENGINES = ("numpy", "onnxruntime", "tensorrt")
Folders = pytest.TempPathFactory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_export(tmp_path_factory.mktemp("saved") / "export")


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


@pytest.fixture
def file(manifest: Manifest, tmp_path: Path) -> Path:
    """States of a text of 7 tokens."""
    path = tmp_path / "prompt.safetensors"
    save_states(path, feed(NumpyEngine(), some_ids(7)[0].tolist()), manifest)
    return path


@pytest.fixture
def engines(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Engine]:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=fake))
    table = (WeightTensor("a.weight", "int8", (16,), 0),)
    record = engine_record(table)
    cuda, weights = Cuda(), tmp_path / "weights.bin"
    weights.write_bytes(bytes(16))
    plans: tuple[Any, Any] = FakePlan(fake, 1), FakePlan(fake, 8)
    held = DeviceWeights(weights, table, cuda)
    return {
        "numpy": NumpyEngine(),
        "onnxruntime": OrtEngine(folder / "model.onnx", state_table(), V, threads=1),
        "tensorrt": TrtEngine(*plans, held, cuda, record, state_table(), V, fake_argmax(fake)),
    }


def some_ids(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, V, (1, length))


@pytest.mark.parametrize("reader", ENGINES)
@pytest.mark.parametrize("writer", ENGINES)
def test_states_of_any_engine_are_loaded_by_any_other(
    engines: dict[str, Engine], manifest: Manifest, tmp_path: Path, writer: str, reader: str
) -> None:
    path = tmp_path / "states"
    _, states = prefill(engines[writer], some_ids(11))
    save_states(path, SavedStates(states, history_after(None, [*some_ids(11)[0].tolist(), 3])), manifest)
    loaded = load_states(path, engines[reader], manifest)
    assert (loaded.tokens, loaded.next_token) == (11, 3)
    assert set(loaded.states) == set(states)
    for name in states:
        np.testing.assert_array_equal(loaded.states[name], states[name], strict=True)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("new", [0, 1, 6])
@pytest.mark.parametrize("length", [0, 1, 4])
@pytest.mark.parametrize("penalty", [1.0, 5.0])
def test_a_loaded_text_goes_on_as_if_there_had_been_no_break(
    engines: dict[str, Engine], manifest: Manifest, tmp_path: Path, name: str, new: int, length: int,
    penalty: float,
) -> None:  # fmt: skip
    sampling = Sampling(repetition_penalty=penalty)
    engine, prompt, more = engines[name], some_ids(9)[0].tolist(), some_ids(4)[0].tolist()[:length]
    decoder = HostDecoder(engine, sampling)
    chosen = list(decoder.start([prompt])) if new else []
    for _ in range(new - 1):
        chosen += decoder.step()
    history = history_after(None, prompt, chosen)
    saved = SavedStates(decoder.finish(), history) if new else feed(engine, prompt)
    save_states(tmp_path / "states", saved, manifest)
    loaded = load_states(tmp_path / "states", engine, manifest)
    assert (loaded.tokens, loaded.next_token) == (8 + new, [*prompt, *chosen][-1])
    resumed = HostDecoder(engine, sampling, [loaded.states], [loaded.history.known])
    whole = HostDecoder(engine, sampling)
    assert resumed.start([[loaded.next_token, *more]]) == whole.start([[*prompt, *chosen, *more]])
    for _ in range(12):
        assert resumed.step() == whole.step()
    after, unbroken = resumed.finish(), whole.finish()
    for state in unbroken:
        np.testing.assert_array_equal(after[state], unbroken[state], strict=True)


@pytest.mark.parametrize("cuts", [(9, 1), (1, 9), (1, 1, 8), (5, 0, 5)])
def test_a_text_fed_in_parts_has_the_states_of_the_whole(cuts: tuple[int, ...]) -> None:
    engine, ids = NumpyEngine(), some_ids(10)[0].tolist()
    whole, parts, begin = feed(engine, ids), None, 0
    for length in cuts:
        parts, begin = feed(engine, ids[begin : begin + length], parts), begin + length
    assert parts is not None
    assert (parts.tokens, parts.next_token) == (whole.tokens, whole.next_token) == (9, ids[-1])
    for name in whole.states:
        np.testing.assert_array_equal(parts.states[name], whole.states[name], strict=True)


def test_one_file_begins_several_sequences(manifest: Manifest, file: Path) -> None:
    engine, prompts = NumpyEngine(), [[3, 4], []]
    loaded = load_states(file, engine, manifest)
    forks = HostDecoder(engine, Sampling(), [loaded.states.fork(), loaded.states])
    behind = some_ids(7)[0].tolist()
    whole = HostDecoder(engine, Sampling())
    expected = whole.start([[*behind, *prompt] for prompt in prompts])
    assert forks.start([[loaded.next_token, *prompt] for prompt in prompts]) == expected


def test_states_without_their_tokens_are_refused_a_penalty(manifest: Manifest, file: Path) -> None:
    engine = NumpyEngine()
    states = load_states(file, engine, manifest).states
    with refused("--repetition-penalty 1.2", "which tokens", code=ExitCode.USAGE):
        HostDecoder(engine, Sampling(repetition_penalty=1.2), [states])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    tokens=st.lists(st.integers(0, V - 1), min_size=1, max_size=9),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_any_bits_come_back(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, seed: int, tokens: list[int], dtype: str
) -> None:
    """NaNs with their payload, infinities, denormals; safetensors' own reader sees the same."""
    random, path = np.random.default_rng(seed), tmp_path_factory.getbasetemp() / f"any-{os.getpid()}"
    model = replace(manifest, states=state_table(dtype))
    arrays = {
        state.past: np.frombuffer(random.bytes(state.nbytes), state.dtype).reshape(1, *state.shape)
        for state in model.states
    }
    size = save_states(path, SavedStates(ArrayStates(arrays), history_after(None, tokens)), model)
    assert size == path.stat().st_size
    loaded = load_states(path, NumpyEngine(dtype), model)
    stored = {name: a for name, a in load_file(path).items() if name in arrays}
    assert loaded.history.tokens == tuple(tokens)
    for held in (loaded.states, stored):
        assert {name: held[name].tobytes() for name in held} == {n: a.tobytes() for n, a in arrays.items()}


def test_a_bundle_of_the_export_takes_its_states(folder: Path, manifest: Manifest, file: Path) -> None:
    bundle = manifest_for(folder, manifest, target="cpu", backend="onnxruntime", producer="test")
    assert load_states(file, NumpyEngine(), bundle).tokens == 6


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_part_of_a_file_is_taken(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, data: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / f"part-{os.getpid()}"
    save_states(path, feed(NumpyEngine(), [3, 4]), manifest)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(QuambaError, match=r"holds no states|has changed"):
        load_states(path, NumpyEngine(), manifest)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_seen(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, data: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / f"flip-{os.getpid()}"
    save_states(path, feed(NumpyEngine(), [3, 4]), manifest)
    content = bytearray(path.read_bytes())
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    content[at] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(QuambaError):
        load_states(path, NumpyEngine(), manifest)


def test_what_is_no_file_is_refused_without_waiting(manifest: Manifest, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, part in (("fifo", "a FIFO"), ("none", "No such file"), (".", "a directory")):
        with refused(part):
            load_states(tmp_path / name, NumpyEngine(), manifest)


def test_only_one_sequence_of_the_model_is_saved(manifest: Manifest, tmp_path: Path) -> None:
    two, path, one = NumpyEngine().zero_states(2), tmp_path / "other", history_after(None, [4, 3])
    with refused("past_", "cannot be saved", "(2, ", "one sequence"):
        save_states(path, SavedStates(two, one), manifest)
    second = NumpyEngine().load_states({name: two[name][1:] for name in two})
    save_states(tmp_path / "states", SavedStates(second, one), manifest)
    with refused("cannot be saved", "float16", "float32"):
        save_states(path, SavedStates(NumpyEngine("float16").zero_states(1), one), manifest)
    with refused("cannot be saved", "no such state"):
        save_states(path, SavedStates(ArrayStates({"other": np.zeros((1, 1))}), one), manifest)
    with refused("its length", "0", "1 to"):
        save_states(path, SavedStates(second, History((), ())), manifest)
    with refused("a token not known", str(V), f"0 to {V - 1}"):
        save_states(path, SavedStates(second, history_after(None, [1, V])), manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["states"]


def test_a_path_that_cannot_be_written_is_refused(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    saved = feed(NumpyEngine(), [3, 4])
    os.mkfifo(tmp_path / "fifo")
    for path, part in (
        (tmp_path, "a directory"),
        (tmp_path / "fifo", "a FIFO of this name"),  # it would be replaced, as /dev/full was once
        (tmp_path / "none" / "states", "no directory"),
        (folder / "states", "would lie in a bundle or export"),
    ):
        with refused(part, code=ExitCode.USAGE):
            save_states(path, saved, manifest)
    save_states(folder / ".." / "beside", saved, manifest)
    assert (folder.parent / "beside").is_file()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    manifest: Manifest, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_states(file, feed(NumpyEngine(), [3, 4]), manifest)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
