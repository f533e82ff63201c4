"""What /metrics shows: counters, gauges and histograms in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from quamba_export.runtime.generate import Generation

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Meter:
    """The metrics of one server, in a registry of their own. May be used from any thread."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "quamba_requests", "Answered requests", ["path", "status"], registry=registry
        )
        self._prompt_tokens = Counter("quamba_prompt_tokens", "Prompt tokens fed", registry=registry)
        self._new_tokens = Counter("quamba_generated_tokens", "Tokens generated", registry=registry)
        self._ttft = histogram("quamba_ttft_seconds", "Arrival to first token, waiting included", registry)
        self._tpot = histogram(
            "quamba_tpot_seconds", "Mean time a token after the first, a sequence", registry
        )
        self._step = histogram("quamba_step_seconds", "One decode step of the whole batch", registry)
        self._active = Gauge("quamba_active_sequences", "Sequences in the batch", registry=registry)
        self._queued = Gauge("quamba_queue_depth", "Sequences that wait for the batch", registry=registry)
        self._sessions = Gauge("quamba_sessions", "Sessions whose states are kept", registry=registry)
        self._session_bytes = Gauge("quamba_session_bytes", "Bytes of kept states", registry=registry)

    def answered(self, path: str, status: int) -> None:
        """path: of a route, never of a request: labels must not grow with what clients send."""
        self._requests.labels(path, str(status)).inc()

    def generated(self, generation: Generation) -> None:
        """A sequence that came to its end."""
        self._prompt_tokens.inc(generation.prompt_tokens)
        self._new_tokens.inc(len(generation.token_ids))
        for metric, milliseconds in ((self._ttft, generation.ttft_ms), (self._tpot, generation.tpot_ms)):
            if milliseconds is not None:
                metric.observe(milliseconds / 1e3)

    def stepped(self, seconds: float) -> None:
        self._step.observe(seconds)

    def load(self, active: int, queued: int) -> None:
        """Sequences in the batch, and those that wait."""
        self._active.set(active)
        self._queued.set(queued)

    def sessions(self, count: int, nbytes: int) -> None:
        self._sessions.set(count)
        self._session_bytes.set(nbytes)

    def text(self) -> bytes:
        """Everything, as Prometheus' text format."""
        return generate_latest(self.registry)


def histogram(name: str, what: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, what, buckets=SECONDS, registry=registry)
