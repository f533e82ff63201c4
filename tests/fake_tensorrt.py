"""TensorRT's builder as far as exporter/tensorrt/build.py calls it: a plan says what it was made of.

A timing cache of it is text that begins with "tactics"; it takes no other.
"""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace
from typing import Any

import onnx

from quamba_export.runtime.tensorrt_library import Plugins

LOADED = Plugins("c0ffee", "12.6", ctypes.CDLL(None))
FLAGS = ("STRONGLY_TYPED", "TF32", "VERSION_COMPATIBLE", "WORKSPACE", "DETAILED")


class FakeTensorRT:
    """Stands for the module `tensorrt`."""

    def __init__(self, version: str = "10.6.0") -> None:
        self.__version__ = version
        names = SimpleNamespace(**{name: index for index, name in enumerate(FLAGS)})
        self.NetworkDefinitionCreationFlag = self.BuilderFlag = self.MemoryPoolType = names
        self.ProfilingVerbosity = names
        self.PreviewFeature = SimpleNamespace(ALIASED_PLUGIN_IO_10_03="aliased")
        self.tactics_read: list[bytes] = []

    def Builder(self, log: object) -> FakeBuilder:
        return FakeBuilder(self)

    def OnnxParser(self, network: FakeNetwork, log: object) -> FakeParser:
        return FakeParser(network)


class FakeNetwork:
    def __init__(self) -> None:
        self.inputs: list[SimpleNamespace] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> SimpleNamespace:
        return self.inputs[index]


class FakeParser:
    num_errors = 0

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network

    def parse(self, content: bytes) -> bool:
        model = onnx.load_model_from_string(content)
        assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
        for value in model.graph.input:
            shape = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
            self.network.inputs.append(SimpleNamespace(name=value.name, shape=shape))
        return True


class FakeBuilder:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt

    def create_network(self, flags: int) -> FakeNetwork:
        assert flags == 1 << FLAGS.index("STRONGLY_TYPED")
        return FakeNetwork()

    def create_builder_config(self) -> FakeConfig:
        return FakeConfig(self.trt)

    def create_optimization_profile(self) -> FakeProfile:
        return FakeProfile()

    def build_serialized_network(self, network: FakeNetwork, config: FakeConfig) -> bytes:
        assert config.cache is not None
        config.cache += b" more"
        flags = sorted(FLAGS[flag] for flag in config.flags)
        inputs = [tensor.name for tensor in network.inputs]
        return json.dumps({"flags": flags, "inputs": inputs, "shapes": config.shapes}).encode()


class FakeProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


class FakeConfig:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt, self.cache, self.flags, self.shapes = trt, b"", {FLAGS.index("TF32")}, dict[str, Any]()

    def set_preview_feature(self, feature: str, on: bool) -> None:
        assert (feature, on) == ("aliased", True)

    def set_memory_pool_limit(self, pool: int, size: int) -> None:
        assert FLAGS[pool] == "WORKSPACE"

    def set_flag(self, flag: int) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: int) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: FakeProfile) -> None:
        self.shapes = profile.shapes

    def create_timing_cache(self, content: bytes) -> SimpleNamespace | None:
        if content and not content.startswith(b"tactics"):
            return None
        return SimpleNamespace(content=content)

    def set_timing_cache(self, cache: SimpleNamespace, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.trt.tactics_read.append(cache.content)
        self.cache = cache.content or b"tactics"
        return True

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: self.cache)
