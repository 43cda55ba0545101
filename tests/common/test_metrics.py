"""Metric names and labels are an interface; these are the established ones."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram

from common import metrics
from common.metrics import METRICS, name_of

INFO = ("outpost_name", "outpost_type", "uuid", "version", "build")


@pytest.mark.parametrize(
    ("metric", "name", "kind", "labels"),
    [
        (metrics.info, "authentik_outpost_info", "gauge", INFO),
        (metrics.last_update, "authentik_outpost_last_update", "gauge", INFO),
        (metrics.connection, "authentik_outpost_connection", "gauge", INFO[:3]),
        (metrics.flow_get, "authentik_outpost_flow_timing_get_seconds", "histogram", ("stage", "flow")),
        (metrics.flow_post, "authentik_outpost_flow_timing_post_seconds", "histogram", ("stage", "flow")),
        (
            metrics.ldap_requests,
            "authentik_outpost_ldap_request_duration_seconds",
            "histogram",
            ("outpost_name", "type", "app"),
        ),
        (
            metrics.ldap_rejected,
            "authentik_outpost_ldap_requests_rejected_total",
            "counter",
            ("outpost_name", "type", "reason", "app"),
        ),
    ],
)
def test_established_names(metric: Any, name: str, kind: str, labels: tuple[str, ...]) -> None:
    """Name, type and labels that dashboards of the core's own outposts use."""
    assert (name_of(metric), metric._type, metric._labelnames) == (name, kind, labels)


def test_flow_timing_has_the_default_buckets() -> None:
    """From 5 ms to 10 s."""
    assert metrics.flow_get._upper_bounds[:-1] == [
        0.005,
        0.01,
        0.025,
        0.05,
        0.075,
        0.1,
        0.25,
        0.5,
        0.75,
        1,
        2.5,
        5,
        7.5,
        10,
    ]


def test_every_metric_is_listed_and_named_by_rule() -> None:
    """``METRICS`` finds all of them; ours have our prefix and say their unit."""
    assert len(METRICS) > 20
    for metric in METRICS:
        assert re.fullmatch(r"(authentik_outpost|outposts)_[a-z_]+", name_of(metric))
        assert metric._documentation.endswith(".")
        assert f"| `{name_of(metric)}` |" in metrics.markdown()


def test_text_has_the_prometheus_format() -> None:
    """Help, type and samples; no "_created" series."""
    metrics.bind_cache_lookups.labels("hit").inc()
    text = metrics.text().decode()
    assert "# TYPE outposts_bind_cache_lookups_total counter" in text
    assert 'outposts_bind_cache_lookups_total{result="hit"}' in text
    assert "_created" not in text


@pytest.mark.parametrize("count", [0, 1, metrics.GATHERED - 1, metrics.GATHERED, 2 * metrics.GATHERED + 7])
def test_gathered_values_are_all_counted(count: int) -> None:
    """Whoever collects sees what the histogram itself would have shown, in every bucket and in the sum."""
    registry = CollectorRegistry()
    one = Histogram("one", "one by one", ("kind",), registry=registry, buckets=(0.001, 0.01, 0.1))
    many = Histogram("many", "gathered", ("kind",), registry=registry, buckets=(0.001, 0.01, 0.1))
    gathered = metrics.Gathered(many.labels("x"))
    for number in range(count):
        value = (number % 7) / 40 if number % 3 else 0.001  # on a bound, between them and above the last
        one.labels("x").observe(value)
        gathered.observe(value)
    metrics.text()  # the registry of the process: counts everything first
    one.labels("x")

    def shown(name: str) -> list[tuple[Any, ...]]:
        family = next(family for family in registry.collect() if family.name == name)
        return [
            (sample.name.removeprefix(name), sample.labels, round(sample.value, 9))
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]

    assert shown("many") == shown("one")
    assert {name: value for name, labels, value in shown("many") if "le" not in labels}.get("_count") == count


def test_gathered_values_outlive_the_gatherer() -> None:
    """A gatherer that nobody needs any more leaves nothing uncounted."""
    registry = CollectorRegistry()
    histogram = Histogram("one", "one", registry=registry)
    gathered = metrics.Gathered(histogram)
    gathered.observe(1.0)
    del gathered
    assert registry.get_sample_value("one_count") == 1
