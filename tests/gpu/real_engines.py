"""Engines of a random two-layer model, built on this GPU, with the manifest that their export would have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quamba_export.calib.calibration_checks import config_to_json
from quamba_export.exporter.graph.onnx_export import write_model
from quamba_export.exporter.speed.random_models import random_model
from quamba_export.exporter.tensorrt.build import BuildOptions, engines_from_export, profiles_for
from quamba_export.exporter.tensorrt.engine_gate import check_engine
from quamba_export.exporter.tensorrt.speed import states_of
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.engine_tensorrt import load_engine
from quamba_export.runtime.manifest import Manifest

MAX_BATCH, CHUNK = 3, 64


@dataclass(frozen=True)
class Built:
    """A folder that holds an export and the engines made of it."""

    folder: Path
    manifest: Manifest
    record: EngineRecord

    def check(self, cuda: Cuda) -> int:
        """Load the engines and put them through the gate; bytes of the GPU's memory that they took."""
        before, _ = cuda.memory()
        engine = load_engine(
            self.folder.joinpath, self.record, self.manifest.states, self.manifest.vocab_size, cuda
        )
        check_engine(engine, self.folder, self.manifest, MAX_BATCH, self.record.prefill_length)
        return before - cuda.memory()[0]


def build(
    name: str, folder: Path, plugins: Path, *, qformat: str = "w8a8", version_compatible: bool = False
) -> Built:
    """A model of exporter/speed/random_models.py, cut to two layers, and its engines."""
    folder.mkdir()
    model = random_model(name, n_layer=2, qformat=qformat)
    write_model(model, folder)
    manifest = Manifest(
        kind="export",
        producer="test",
        target="cpu",
        backend="onnxruntime",
        qformat=qformat,
        config=config_to_json(model.config),
        eos_token_id=0,
        states=states_of(model),
        files={},
        sources={},
    )
    options = BuildOptions(plugins, folder / "timing.cache", version_compatible)
    record = engines_from_export(folder, folder, profiles_for(MAX_BATCH, CHUNK), options)
    return Built(folder, manifest, record)
