"""config.pbtxt of a bundle's model for Triton Inference Server.

Triton keeps the states: its sequence batcher gives every sequence the states that the model returned for it
last ("implicit state"), zeros at its start. The schema is model_config.proto of Triton's "common" repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.manifest import Manifest, StateTensor

TYPE = {"int8": "TYPE_INT8", "float16": "TYPE_FP16", "float32": "TYPE_FP32"}
CANDIDATES = 4  # sequences that Triton keeps states of, for each that a batch takes
IDLE_MICROSECONDS = 600_000_000  # after which a sequence that sends nothing is forgotten


def config_of(name: str, manifest: Manifest, record: EngineRecord) -> str:
    """The text. Requests carry input_ids (1, L), L up to the plan's longest call, and get the last logits."""
    return "\n".join(
        [
            f"name: {json.dumps(name)}",
            'platform: "tensorrt_plan"',
            f"max_batch_size: {record.max_batch}",
            'input [ { name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] } ]',
            f'output [ {{ name: "logits" data_type: TYPE_FP32 dims: [ 1, {manifest.vocab_size} ] }} ]',
            "sequence_batching {",
            f"  max_sequence_idle_microseconds: {IDLE_MICROSECONDS}",
            f"  oldest {{ max_candidate_sequences: {CANDIDATES * record.max_batch} }}",
            *(line for state in manifest.states for line in state_lines(state)),
            "}",
            "instance_group [ { count: 1 kind: KIND_GPU } ]",
            "",
        ]
    )


def state_lines(state: StateTensor) -> Iterator[str]:
    """One state, zeros at a sequence's start."""
    kind, dims = TYPE[state.dtype], ", ".join(map(str, state.shape))
    yield "  state {"
    yield f'    input_name: "{state.past}" output_name: "{state.present}"'
    yield f"    data_type: {kind} dims: [ {dims} ]"
    yield f'    initial_state {{ name: "zeros" data_type: {kind} dims: [ {dims} ] zero_data: true }}'
    yield "  }"
