"""Polygraphy runners whose outputs are named by site, so that models can be laid side by side.

All take `input_ids` (B, L) from a zero state. Output names: `logits`, every site of docs/architecture.md, and
`layers.{i}.conv_state`, `layers.{i}.ssm_state` after the last token. Integer tensors stay codes here, but for
a state whose rows have scales of their own.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from quamba_export.exporter.graph.onnx_session import open_session, zero_states

if TYPE_CHECKING:
    from quamba_export.calib.model.float_model import FloatMamba
    from quamba_export.calib.model.quantized_model import QuantizedModel
    from quamba_export.calib.model.states import States
    from quamba_export.runtime.engine import Engine
    from quamba_export.runtime.manifest import StateTensor

Arrays = dict[str, NDArray[Any]]


class SiteRunner(BaseRunner, ABC):  # type: ignore[misc]
    """What our runners share: one input, wall time, outputs by site."""

    def get_input_metadata_impl(self) -> Any:
        return TensorMetadata().add("input_ids", dtype=np.int64, shape=(None, None))

    def infer_impl(self, feed_dict: Arrays) -> Arrays:
        started = time.perf_counter()
        outputs = self.sites(feed_dict["input_ids"])
        self.inference_time = time.perf_counter() - started
        return outputs

    @abstractmethod
    def sites(self, input_ids: NDArray[np.int64]) -> Arrays:
        """Every output by its name."""


class FloatRunner(SiteRunner):
    """The float model after the exact rewrites: equal to the checkpoint, in the quantized models' basis."""

    def __init__(self, model: FloatMamba) -> None:
        super().__init__(name="float")
        self.model = model

    def sites(self, input_ids: NDArray[np.int64]) -> Arrays:
        return observed(lambda observe: self.model(torch.from_numpy(input_ids), observe=observe))


class ReferenceRunner(SiteRunner):
    """The quantized PyTorch model, made of the ops' references."""

    def __init__(self, model: QuantizedModel) -> None:
        super().__init__(name="pytorch")
        self.model = model

    def sites(self, input_ids: NDArray[np.int64]) -> Arrays:
        return observed(lambda tap: self.model.run(torch.from_numpy(input_ids), None, tap))


class OnnxRunner(SiteRunner):
    """ONNX Runtime on a copy of the graph, in memory, with every site marked as an output."""

    def __init__(self, model_path: Path, states: Sequence[StateTensor]) -> None:
        super().__init__(name="onnxruntime")
        self.model_path, self.states = model_path, states

    def activate_impl(self) -> None:
        self.session = open_session(with_site_outputs(self.model_path), self.model_path.parent)

    def deactivate_impl(self) -> None:
        del self.session

    def sites(self, input_ids: NDArray[np.int64]) -> Arrays:
        batch, length = input_ids.shape
        feed = {
            "input_ids": input_ids,
            "num_logits_to_keep": np.array(length),
            **zero_states(self.states, batch),
        }
        names = [output.name for output in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(names, feed), strict=True))
        return by_site(outputs)


class EngineRunner(SiteRunner):
    """The engine that a device runs: every layer's states after prefill, and the logits of every token.

    A TensorRT engine gives for each token the logits of a prompt that ends there. ONNX Runtime's are those
    of the whole one: Mamba-2's scan takes 64 tokens at once there that a shorter prompt takes one by one.
    """

    def __init__(self, name: str, open_engine: Callable[[], Engine]) -> None:
        """open_engine is called when Polygraphy activates the runner, and not before."""
        super().__init__(name=name)
        self.open_engine = open_engine

    def activate_impl(self) -> None:
        self.engine = self.open_engine()

    def deactivate_impl(self) -> None:
        del self.engine

    def sites(self, input_ids: NDArray[np.int64]) -> Arrays:
        batch, length = input_ids.shape
        logits, states = self.engine.run(input_ids, self.engine.zero_states(batch), num_logits=length)
        return by_site({name: np.array(states[name]) for name in states}) | {"logits": logits}


def observed(run: Callable[[Callable[[str, torch.Tensor], None]], tuple[torch.Tensor, States]]) -> Arrays:
    """Outputs of a PyTorch model as numpy arrays: what it shows an observer, then its states and logits."""
    outputs: Arrays = {}

    def observe(site: str, tensor: torch.Tensor) -> None:
        outputs[site] = tensor.numpy()
        whole, split, _ = site.partition("conv_in_")
        if split and site.endswith("C"):  # Mamba-2's float model observes the parts of conv_in, C last
            parts = [outputs.pop(f"{whole}conv_in_{part}") for part in "xBC"]
            outputs[f"{whole}conv_in"] = np.concatenate(parts, axis=-1)

    with torch.inference_mode():
        logits, states = run(observe)
    for i, (conv, ssm) in enumerate(zip(states.conv, states.float_ssm(), strict=True)):
        outputs[f"layers.{i}.conv_state"], outputs[f"layers.{i}.ssm_state"] = conv.numpy(), ssm.numpy()
    return outputs | {"logits": logits.numpy()}


def with_site_outputs(model_path: Path) -> bytes:
    """The serialized graph with every tensor named `layers.*` as a further output; weights stay outside."""
    import onnx

    model = onnx.load(str(model_path), load_external_data=False)
    sites = (name for node in model.graph.node for name in node.output if name.startswith("layers."))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sites)
    return bytes(model.SerializeToString())


def by_site(outputs: Arrays) -> Arrays:
    """Outputs of a graph by site; a dynamic int8 state as the fp32 values that it holds."""
    from quamba_export.calib.model.states import float_state

    found = {site_of_state(name): array for name, array in outputs.items()}
    for scale in [name for name in found if name.endswith(".ssm_scale")]:
        state = scale.replace(".ssm_scale", ".ssm_state")
        parts = (torch.from_numpy(array) for array in (found[state], found.pop(scale)))
        found[state] = float_state(*parts).numpy()
    return found


def site_of_state(name: str) -> str:
    """past_ssm_states.3 and present_ssm_states.3 -> layers.3.ssm_state; any other name as it is."""
    when, _, rest = name.partition("_")
    kind, _, layer = rest.partition("s.")
    return f"layers.{layer}.{kind}" if when in ("past", "present") and layer else name
