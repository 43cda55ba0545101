"""The configuration cache against a core over real HTTP: what is complete is swapped in, the rest changes nothing."""

from __future__ import annotations

import asyncio
import datetime
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from common import cache, logs, tls
from common.api import CoreApi
from common.cache import Configuration, ConfigurationCache, OutpostVanished, WrongOutpostType
from common.errors import CoreUnavailable
from common.settings import Settings, load
from tests import factories
from tests.fakes import StubCore

NOW = 1_760_000_000.0


@pytest.fixture
def core() -> Iterator[StubCore]:
    """A core with one LDAP provider."""
    with StubCore() as running:
        running.providers["ldap"] = [factories.ldap_provider()]
        yield running


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged."""
    text = io.StringIO()
    logs.configure("info", stream=text)
    yield text
    logs.configure("info")


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    """The log lines."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def settings_for(core: StubCore) -> Settings:
    """Settings that lead to a stub core."""
    return load({"AUTHENTIK_HOST": core.url, "AUTHENTIK_TOKEN": core.token})


@asynccontextmanager
async def cached(core: StubCore) -> AsyncIterator[ConfigurationCache]:
    """A cache in front of it; waits between tries of a page are not waited for."""

    async def at_once(_: float) -> None:
        await asyncio.sleep(0)

    api = CoreApi(settings_for(core), sleep=at_once)
    try:
        yield ConfigurationCache(api, "ldap", clock=lambda: NOW)
    finally:
        await api.close()


def store_pair(core: StubCore, pk: str = "pair-1", **changes: str) -> tls.CertificatePair:
    """Put a fresh pair into the core under an id and let the provider use it."""
    made = tls.self_signed(datetime.datetime.fromtimestamp(NOW, datetime.UTC))
    stored = {
        "fingerprint": made.fingerprint,
        "certificate": made.certificate_pem,
        "key": made.private_key_pem,
    } | changes
    core.certificates[pk] = stored
    core.providers["ldap"][0]["certificate"] = pk
    return made


async def test_everything_is_read(core: StubCore) -> None:
    """Outpost, root configuration, providers; with the time and our own values of the outpost's config."""
    core.outpost["config"]["x_ldap_strict"] = True
    async with cached(core) as configuration:
        assert configuration.age_s(NOW) == float("inf")
        found = await configuration.refresh()
        assert configuration.current is found
        assert configuration.age_s(NOW + 5) == 5
    assert (found.outpost.name, found.root.cache_timeout_flows) == ("stub ldap outpost", 3600)
    assert [provider.name for provider in found.providers] == ["ldap-1"]
    assert found.outpost.config["x_ldap_strict"] is True


async def test_c12_no_outpost_then_one(core: StubCore) -> None:
    """An empty list is its own error; what was in service stays; a later entry is picked up."""
    outpost = core.outpost
    async with cached(core) as configuration:
        core.outpost = {}
        with pytest.raises(OutpostVanished, match="no outpost visible"):
            await configuration.refresh()
        core.outpost = outpost
        first = await configuration.refresh()
        core.outpost = {}
        with pytest.raises(OutpostVanished):
            await configuration.refresh()
        assert configuration.current is first
        assert isinstance(configuration.last_error, OutpostVanished)


async def test_c11_wrong_token(core: StubCore) -> None:
    """A refusal of the token is the same to us as a deleted outpost; the token is not in the message."""
    settings = settings_for(core)
    core.token = "another"
    api = CoreApi(settings)
    with pytest.raises(OutpostVanished, match="refuses the token") as caught:
        await ConfigurationCache(api, "ldap").refresh()
    await api.close()
    assert settings.token not in str(caught.value)


async def test_c13_type_differs(core: StubCore) -> None:
    """An outpost of another type is refused."""
    core.outpost["type"] = "radius"
    async with cached(core) as configuration:
        with pytest.raises(WrongOutpostType, match=r"radius, not ldap"):
            await configuration.refresh()
        assert configuration.current is None


async def test_several_outposts(core: StubCore, stream: io.StringIO) -> None:
    """The one of our type is taken, with a warning."""
    other = factories.outpost("radius")
    body = {"pagination": {"next": 0}, "results": [other, core.outpost]}
    core.fault("/outposts/instances/", status=200, body=body)
    async with cached(core) as configuration:
        assert (await configuration.refresh()).outpost.type == "ldap"
    assert "several outposts" in events(stream)[0]["event"]


async def test_c14_no_provider(core: StubCore) -> None:
    """An empty list of providers is a good configuration."""
    core.providers["ldap"] = []
    async with cached(core) as configuration:
        assert (await configuration.refresh()).providers == ()


async def test_c15_many_providers(core: StubCore) -> None:
    """230 providers in three pages."""
    core.providers["ldap"] = [factories.ldap_provider(pk) for pk in range(1, 231)]
    async with cached(core) as configuration:
        found = await configuration.refresh()
    assert {provider.pk for provider in found.providers} == set(range(1, 231))
    assert sorted(call.query["page"] for call in core.called("/outposts/ldap/")) == ["1", "2", "3"]


@pytest.mark.parametrize("path", ["/outposts/instances/", "/outposts/ldap/"])
async def test_any_failure_keeps_the_last_good_one(core: StubCore, path: str) -> None:
    """Errors, pages of something in between, answers cut short."""
    async with cached(core) as configuration:
        first = await configuration.refresh()
        for what in (
            {"status": 500},
            {"html": True},
            {"truncated": True},
            {"reset": True},
            {"html": True, "status": 200},
        ):
            core.fault(path, **what)
            with pytest.raises(Exception, match="outposts"):
                await configuration.refresh()
            assert configuration.current is first
            core.clear_faults()
        assert await configuration.refresh() == first


async def test_root_configuration_is_needed_once(core: StubCore, stream: io.StringIO) -> None:
    """Before the first success its absence is a failure; later the last one is kept."""
    async with cached(core) as configuration:
        core.fault("/root/config/", status=500, times=1)
        with pytest.raises(CoreUnavailable):
            await configuration.refresh()
        await configuration.refresh()
        core.fault("/root/config/", status=500)
        core.outpost["name"] = "renamed"
        found = await configuration.refresh()
    assert (found.outpost.name, found.root.cache_timeout_flows) == ("renamed", 3600)
    assert any("root configuration not read" in line["event"] for line in events(stream))


async def test_one_bad_provider_is_left_out(core: StubCore, stream: io.StringIO) -> None:
    """With an error that names it, and a metric; the others are served."""
    core.providers["ldap"] = [
        factories.ldap_provider(1),
        factories.ldap_provider(2, bind_flow_slug=None, name="broken"),
        factories.ldap_provider(3),
    ]
    async with cached(core) as configuration:
        found = await configuration.refresh()
    assert sorted(provider.pk for provider in found.providers) == [1, 3]
    assert REGISTRY.get_sample_value("outposts_providers_skipped") == 1
    (line,) = (line for line in events(stream) if line["event"] == "provider skipped")
    assert (line["level"], line["provider"]) == ("error", "broken")


async def test_c58_new_fingerprint_new_pair(core: StubCore) -> None:
    """A changed certificate is fetched; an unchanged one costs one call and no key."""
    first_pair = store_pair(core)
    async with cached(core) as configuration:
        first = await configuration.refresh()
        assert first.certificates["pair-1"].private_key_pem == first_pair.private_key_pem
        assert first.certificate_of(first.providers[0]) is first.certificates["pair-1"]
        core.forget()
        await configuration.refresh()
        assert len(core.called("/crypto/certificatekeypairs/pair-1/$")) == 1
        assert not core.called("/crypto/certificatekeypairs/pair-1/view")
        second_pair = store_pair(core)
        second = await configuration.refresh()
    assert second.certificates["pair-1"].certificate_pem == second_pair.certificate_pem
    assert len(core.called(".*/view_private_key/")) == 1


@pytest.mark.parametrize("status", [403, 404, 500])
@pytest.mark.parametrize("path", ["/crypto/.*/$", "/crypto/.*/view_certificate/", "/crypto/.*/view_private_key/"])
async def test_c59_certificate_out_of_reach(core: StubCore, path: str, status: int, stream: io.StringIO) -> None:
    """The old pair stays, the rest of the refresh counts, and the next refresh tries again."""
    first_pair = store_pair(core)
    async with cached(core) as configuration:
        await configuration.refresh()
        second_pair = store_pair(core)
        core.outpost["name"] = "renamed"
        core.fault(path, status=status)
        found = await configuration.refresh()
        assert found.outpost.name == "renamed"
        assert found.certificates["pair-1"].certificate_pem == first_pair.certificate_pem
        core.clear_faults()
        found = await configuration.refresh()
    assert found.certificates["pair-1"].certificate_pem == second_pair.certificate_pem
    assert "PRIVATE KEY" not in stream.getvalue()


async def test_certificate_that_never_came(core: StubCore) -> None:
    """The provider is served without one until there is one."""
    pair = store_pair(core)
    core.fault("/crypto/.*", status=404)
    async with cached(core) as configuration:
        found = await configuration.refresh()
        assert (len(found.providers), found.certificates) == (1, {})
        assert found.certificate_of(found.providers[0]) is None
        core.clear_faults()
        assert (await configuration.refresh()).certificates["pair-1"].fingerprint == pair.fingerprint


async def test_mismatched_key_is_not_served(core: StubCore) -> None:
    """A key of another certificate leaves the old pair in service."""
    first = store_pair(core)
    async with cached(core) as configuration:
        await configuration.refresh()
        store_pair(core, key=first.private_key_pem)
        found = await configuration.refresh()
    assert found.certificates["pair-1"].certificate_pem == first.certificate_pem


async def test_certificate_without_key_and_without_fingerprint(core: StubCore) -> None:
    """No key is a certificate that cannot be served; no fingerprint means asking again each time."""
    store_pair(core, key="", fingerprint="")
    async with cached(core) as configuration:
        found = await configuration.refresh()
        assert found.certificates["pair-1"].servable is False
        core.forget()
        await configuration.refresh()
    assert len(core.called("/crypto/.*/view_certificate/")) == 1


async def test_expiry_is_a_metric_and_a_warning(core: StubCore, stream: io.StringIO) -> None:
    """Seconds to go; one warning per certificate from two weeks on; a provider's end ends its series."""
    made = tls.self_signed(datetime.datetime.fromtimestamp(NOW, datetime.UTC), days=10)
    store_pair(core, fingerprint=made.fingerprint, certificate=made.certificate_pem, key=made.private_key_pem)
    async with cached(core) as configuration:
        await configuration.refresh()
        await configuration.refresh()
        left = REGISTRY.get_sample_value("outposts_certificate_expiry_seconds", {"certificate": "pair-1"})
        assert left == pytest.approx(10 * 86400, abs=1)
        core.providers["ldap"] = []
        await configuration.refresh()
    assert REGISTRY.get_sample_value("outposts_certificate_expiry_seconds", {"certificate": "pair-1"}) is None
    assert [line["days_left"] for line in events(stream) if line["event"] == "certificate ends soon"] == [10.0]


async def test_sealed_form_there_and_back(core: StubCore) -> None:
    """Everything a daemon needs to serve comes back; another type, other content, or damage gives nothing."""
    store_pair(core)
    async with cached(core) as configuration:
        found = await configuration.refresh()
    content = cache.to_bytes(found)
    assert cache.from_bytes(content, "ldap") == found
    assert cache.from_bytes(content, "radius") is None
    assert cache.from_bytes(b"{}", "ldap") is None
    assert cache.from_bytes(content[:-1], "ldap") is None


@pytest.mark.parametrize(
    ("managed", "config", "level"),
    [
        (None, {"log_level": "nonsense"}, "nonsense"),
        ("", {"log_level": "warning"}, "warning"),
        (None, {}, "info"),
        (None, {"log_level": None}, "info"),
        ("goauthentik.io/outposts/embedded", {"log_level": "debug"}, None),
    ],
)
def test_c18_log_level_of_the_outpost(managed: str | None, config: dict[str, Any], level: str | None) -> None:
    """Absent is info, unknown will be debug, managed outposts keep the environment's."""
    from common.records import OutpostRecord, RootConfig

    outpost = OutpostRecord(pk="p", name="n", type="ldap", managed=managed, config=config)
    assert Configuration(outpost, RootConfig(), ()).log_level == level
