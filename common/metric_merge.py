"""Metrics of several processes as one: what each worker has counted, and the sum that ``/metrics`` shows.

Counters and histograms are added up. For each gauge ``common.metrics.GAUGE_RULES`` says what the whole daemon's value
is: the sum, the greatest, or the supervisor's alone. What a worker counted before it ended stays in the sum, so a
restart does not look like a reset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from common.metrics import GAUGE_RULES, SUPERVISOR

ADDED = frozenset({"counter", "histogram", "summary"})  # types whose samples are counts or sums

SampleKey = tuple[str, tuple[tuple[str, str], ...]]


class Family(msgspec.Struct, array_like=True):
    """One metric: its samples by name and labels."""

    name: str
    documentation: str
    type: str
    samples: dict[SampleKey, float]


Families = Mapping[str, Family]
_decoder = msgspec.msgpack.Decoder(list[Family])


def collect(registry: CollectorRegistry) -> dict[str, Family]:
    """All metrics of this process."""
    found = {}
    for metric in registry.collect():
        samples = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in metric.samples}
        found[metric.name] = Family(metric.name, metric.documentation, metric.type, samples)
    return found


def to_bytes(families: Families) -> bytes:
    """For the way to the supervisor."""
    return msgspec.msgpack.encode(list(families.values()))


def from_bytes(content: bytes) -> dict[str, Family]:
    """The opposite. Raises ``msgspec.MsgspecError``."""
    return {family.name: family for family in _decoder.decode(content)}


def counted(families: Families) -> dict[str, Family]:
    """The part that outlives its process: counters and histograms."""
    return {name: family for name, family in families.items() if family.type in ADDED}


def merge(own: Families, others: Iterable[Families]) -> dict[str, Family]:
    """One set of metrics for the supervisor's own and those of its workers."""
    merged = {name: Family(name, f.documentation, f.type, dict(f.samples)) for name, f in own.items()}
    for families in others:
        for name, family in families.items():
            rule = "sum" if family.type in ADDED else GAUGE_RULES.get(name, SUPERVISOR)
            if rule == SUPERVISOR:
                continue
            target = merged.setdefault(name, Family(name, family.documentation, family.type, {}))
            for key, value in family.samples.items():
                known = target.samples.get(key)
                if known is None:
                    target.samples[key] = value
                else:
                    target.samples[key] = known + value if rule == "sum" else max(known, value)
    return merged


class Merged:
    """What ``prometheus_client`` writes as text: stands in for a registry."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """The metrics as its own objects; the buckets of a histogram in ascending order."""
        for family in self._families.values():
            metric = Metric(family.name, family.documentation, family.type)
            for (name, labels), value in family.samples.items():
                metric.add_sample(name, dict(labels), value)
            yield metric
