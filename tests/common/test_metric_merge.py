"""Metrics of several processes as one text."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from common import metrics
from common.metric_merge import Merged, collect, counted, from_bytes, merge, to_bytes


def process(requests: int, connections: int, age: float, providers: int, took: float = 0.2) -> CollectorRegistry:
    """One process's registry, with a metric of each kind."""
    registry = CollectorRegistry()
    counter = Counter("requests_total", "R.", ("type",), registry=registry)
    counter.labels("bind").inc(requests)
    histogram = Histogram("took_seconds", "T.", ("app",), registry=registry, buckets=(0.1, 1))
    for _ in range(requests):
        histogram.labels("a").observe(took)
    Gauge("outposts_connections", "C.", ("listener",), registry=registry).labels("ldap").set(connections)
    Gauge("outposts_snapshot_age_seconds", "A.", ("app",), registry=registry).labels("a").set(age)
    Gauge("outposts_providers", "P.", registry=registry).set(providers)
    return registry


def shown(*registries: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Samples of the merged text by name and labels, read by another reader than the writer."""
    own, *others = [from_bytes(to_bytes(collect(registry))) for registry in registries]
    text = metrics.text(Merged(merge(own, others))).decode()
    return {
        (sample.name, ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_rules() -> None:
    """Counters and histograms are sums, each gauge by its rule."""
    found = shown(process(0, 0, 0, 7), process(3, 10, 30, 1), process(4, 20, 10, 2))
    assert found["requests_total", "type=bind"] == 7
    assert found["took_seconds_count", "app=a"] == 7
    assert found["took_seconds_sum", "app=a"] == pytest.approx(1.4)
    assert [found["took_seconds_bucket", f"app=a,le={le}"] for le in ("0.1", "1.0", "+Inf")] == [0, 7, 7]
    assert found["outposts_connections", "listener=ldap"] == 30
    assert found["outposts_snapshot_age_seconds", "app=a"] == 30
    assert found["outposts_providers", ""] == 7


def test_one_process_is_shown_as_it_is() -> None:
    """Without workers the text says the same as prometheus_client's own."""
    registry = process(3, 10, 30, 1)
    text = metrics.text(Merged(merge(collect(registry), []))).decode()
    assert sorted(text.splitlines()) == sorted(metrics.text(registry).decode().splitlines())


def test_what_only_a_worker_has() -> None:
    """A counter that the supervisor never touched appears with its value."""
    worker = CollectorRegistry()
    Counter("only_here_total", "O.", registry=worker).inc(5)
    assert shown(CollectorRegistry(), worker)["only_here_total", ""] == 5


def test_an_ended_worker_keeps_its_counts() -> None:
    """Its counters and histograms stay in the sum, its gauges go."""
    left = counted(collect(process(3, 10, 30, 1)))
    assert set(left) == {"requests", "took_seconds"}
    merged = merge(collect(process(0, 0, 0, 7)), [left, collect(process(4, 20, 10, 2))])
    values = {key: value for family in merged.values() for key, value in family.samples.items()}
    assert values["requests_total", (("type", "bind"),)] == 7
    assert values["outposts_connections", (("listener", "ldap"),)] == 20


def test_merging_changes_nothing_it_was_given() -> None:
    """The retired counts are merged into again and again."""
    own, other = collect(process(1, 1, 1, 1)), collect(process(2, 2, 2, 2))
    before = to_bytes(own), to_bytes(other)
    merge(own, [other, other])
    assert (to_bytes(own), to_bytes(other)) == before


def test_every_gauge_has_a_rule() -> None:
    """Of ours; a new gauge has to say in ``GAUGE_RULES`` what it means for a daemon with several workers."""
    ours = {metric._name for metric in metrics.METRICS if isinstance(metric, Gauge)}
    missing = ours - metrics.GAUGE_RULES.keys()
    assert not missing, f"add to common/metrics.py GAUGE_RULES: {missing}"
    known = ours | {metric.name for metric in REGISTRY.collect()}
    assert metrics.GAUGE_RULES.keys() <= known
    assert set(metrics.GAUGE_RULES.values()) <= {metrics.SUM, metrics.GREATEST, metrics.SUPERVISOR}


@pytest.mark.parametrize("content", [b"", b"\xc1", msgspec.msgpack.encode([[1, 2]])])
def test_unreadable(content: bytes) -> None:
    """An error that the supervisor knows."""
    with pytest.raises(msgspec.MsgspecError):
        from_bytes(content)
