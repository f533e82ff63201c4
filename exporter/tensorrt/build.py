"""export/ -> weights and serialized TensorRT engines: one for single tokens, one for prefill, on this GPU.

Both take the weights as inputs (weights.py), so a plan is small and made in seconds. The network is
strongly typed: the graph's own dtypes and the plugins' int8 tensors are what runs. A plugin's state output is
the memory of its state input (aliased plugin I/O).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx.external_data_helper import load_external_data_for_model

from quamba_export.exporter.bundle.portable import engine_graphs
from quamba_export.exporter.console import say
from quamba_export.exporter.tensorrt.memory import check_memory, estimate_memory
from quamba_export.exporter.tensorrt.timing_cache import TimingCache, cache_key, default_path
from quamba_export.exporter.tensorrt.weights import weight_table, write_weights
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.folder_check import WEIGHTS
from quamba_export.runtime.tensorrt_library import import_builder, load_plugins, logger

WORKSPACE_BYTES = 4 << 30


@dataclass(frozen=True)
class Profile:
    """The calls that one engine takes: 1 to max_batch sequences of shortest to longest tokens."""

    name: Literal["decode", "prefill"]
    shortest: int
    longest: int
    max_batch: int

    def shape(self, dims: Sequence[int], which: Literal["min", "opt", "max"]) -> tuple[int, ...]:
        """A graph input's shape (B, ...), its open dimensions -1: the first is B, another L.

        Tuned for one sequence of the longest length.
        """
        batch = self.max_batch if which == "max" else 1
        length = self.shortest if which == "min" else self.longest
        return (batch, *(length if dim < 0 else dim for dim in dims[1:]))


def profiles_for(max_batch: int, prefill_length: int) -> tuple[Profile, Profile]:
    """Decode and prefill."""
    return Profile("decode", 1, 1, max_batch), Profile("prefill", 1, prefill_length, max_batch)


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built.

    timing_cache: a file instead of the one in the user's cache folder. version_compatible: for later
    TensorRTs of this major version too, and their lean runtimes: a plan holds a copy of this version's lean
    runtime, which has to be installed beside the builder, and may be slower.
    """

    plugins: Path
    timing_cache: Path | None = None
    version_compatible: bool = False
    verbose: bool = False
    plugins_inside: bool = False  # the plan holds the plugin library, for a runtime that loads none itself


def engines_from_export(
    export: Path, folder: Path, profiles: tuple[Profile, Profile], options: BuildOptions
) -> EngineRecord:
    """Write weights.bin, decode.engine and prefill.engine of export/'s model into `folder`.

    Says on stderr how much memory it will take, then how long each plan took and how large it is; the record
    holds that estimate. Raises QuambaError: exit 5 where TensorRT or the plugins are missing or TensorRT
    refuses the graph, with its own words; 6 where the GPU has less memory free than is estimated.
    """
    plugins, cuda = load_plugins(options.plugins), Cuda()
    _, prefill = profiles
    model = onnx.load(str(export / "model.onnx"), load_external_data=False)
    graphs = engine_graphs(export)
    weights = weight_table(graphs["prefill"], model)
    estimate = estimate_memory(model, weights, prefill.max_batch, prefill.longest)
    say(f"memory: about {estimate}")
    check_memory(estimate, cuda)
    write_weights(weights, model, export, folder / WEIGHTS)
    cache = _timing_cache(options, cuda)
    for profile in profiles:
        graph = graphs[profile.name]
        load_external_data_for_model(graph, str(export))  # the small constants that are left
        path, start = folder / f"{profile.name}.engine", time.perf_counter()
        path.write_bytes(engine_from_graph(graph, profile, options, cache))
        say(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB, {time.perf_counter() - start:.1f} s")
    return EngineRecord(
        tensorrt=import_builder().__version__,
        version_compatible=options.version_compatible,
        sm=cuda.sm,
        contracts=plugins.contracts,
        max_batch=prefill.max_batch,
        prefill_length=prefill.longest,
        weights=weights,
        cuda=plugins.cuda,
        device_bytes=estimate.total,
    )


def plan_with_weights(export: Path, profile: Profile, options: BuildOptions) -> bytes:
    """One plan of export/'s model, its weights inside; its plugins are loaded. Raises as above."""
    from quamba_export.exporter.tensorrt.graph import tensorrt_graph  # imports torch

    graph = tensorrt_graph(onnx.load(str(export / "model.onnx")))
    return engine_from_graph(graph, profile, options, _timing_cache(options, Cuda()))


def engine_from_graph(
    graph: onnx.ModelProto, profile: Profile, options: BuildOptions, cache: TimingCache
) -> bytes:
    """Build one plan of a graph that tensorrt_graph gave, its plugins loaded; raises as above."""
    trt, (log, messages) = import_builder(), logger()
    messages.take_errors()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph.SerializeToString()):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise _refused("parse the graph", "\n".join(reasons) or messages.take_errors())
    config = _config(trt, builder, options)
    config.add_optimization_profile(_shapes(builder, network, profile))
    if not _use_tactics(config, cache.read()):
        say(f"timing cache {cache.path} is not used: {messages.take_errors() or 'TensorRT refuses it'}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(
            f"build the {profile.name} engine",
            messages.take_errors(),
            "install libnvinfer_lean of this version beside it" if options.version_compatible else None,
        )
    cache.write(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _timing_cache(options: BuildOptions, cuda: Cuda) -> TimingCache:
    key = cache_key(
        gpu=cuda.name,
        sm=cuda.sm,
        tensorrt=import_builder().__version__,
        plugins=options.plugins.read_bytes(),
        settings=f"strongly typed, aliased I/O, no TF32, workspace {WORKSPACE_BYTES}"
        f"{', version-compatible' if options.version_compatible else ''}",
    )
    return TimingCache(options.timing_cache or default_path(key), key)


def _use_tactics(config: Any, tactics: bytes) -> bool:
    """Give TensorRT a timing cache to read and extend; an empty one, and False, where it refuses this one."""
    cache = config.create_timing_cache(tactics)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return True
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return False


def _config(trt: Any, builder: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)  # the head's products in fp32, as the graph says
    if options.version_compatible:
        config.set_flag(
            trt.BuilderFlag.VERSION_COMPATIBLE
        )  # the plan takes this version's lean runtime along
    if options.plugins_inside:
        config.plugins_to_serialize = [str(options.plugins.resolve())]
    if options.verbose:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return config


def _shapes(builder: Any, network: Any, profile: Profile) -> Any:
    """The shapes of every input that has open dimensions."""
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        dims = tuple(tensor.shape)
        if -1 in dims:
            least, most_likely, most = (profile.shape(dims, which) for which in ("min", "opt", "max"))
            shapes.set_shape(tensor.name, least, most_likely, most)
    return shapes


def _refused(what: str, reasons: str, fix: str | None = None) -> QuambaError:
    return QuambaError(
        f"TensorRT {import_builder().__version__} cannot {what}",
        found=reasons[-4000:] or "no reason given",
        allowed="a graph that `quamba-export export` of this release wrote",
        fix=fix or "TensorRT 10.3 or later; or --target cpu",
        code=ExitCode.INCOMPATIBLE,
    )
