"""The official API client, both release lines, against every list that it can read from the embedded core.

The client checks each answer against its generated models, so a missing or wrongly typed field fails the call.
"""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from core import models
from tests import peer_programs
from tests.core.cores import ADMIN_TOKEN, core

pytestmark = pytest.mark.peer

CALLS_TIMEOUT_S = 60  # about thirty calls and the import of a large package

SCRIPT = """
import json, sys
from authentik_client import ApiClient, Configuration
from authentik_client.api import core_api, crypto_api, events_api, flows_api, outposts_api, providers_api, root_api

url, admin, outpost = json.load(sys.stdin)


def client(token):
    return ApiClient(Configuration(host=url + "/api/v3", access_token=token))


own, all_rights = client(outpost), client(admin)
outposts, directory = outposts_api.OutpostsApi(own), core_api.CoreApi(own)
providers, flows = providers_api.ProvidersApi(all_rights), flows_api.FlowsApi(all_rights)
crypto, rest = crypto_api.CryptoApi(own), core_api.CoreApi(all_rights)
users = directory.core_users_list(page_size=100).results
groups = directory.core_groups_list(include_users=True, include_children=True).results
for user in users:
    directory.core_users_retrieve(id=user.pk)
for group in groups:
    directory.core_groups_retrieve(group_uuid=group.pk)
pair = crypto.crypto_certificatekeypairs_list().results[0]
first = providers.providers_ldap_list().results[0]
json.dump(
    {
        "instances": len(outposts.outposts_instances_list().results),
        "ldap": len(outposts.outposts_ldap_list().results),
        "radius": len(outposts.outposts_radius_list().results),
        "proxy": len(outposts.outposts_proxy_list().results),
        "check": outposts.outposts_ldap_access_check(id=3, app_slug="ldap-mfa").access.passing,
        "users": sorted(user.username for user in users),
        "groups": sorted(group.name for group in groups),
        "me": directory.core_users_me_retrieve().user.username,
        "certificate": crypto.crypto_certificatekeypairs_view_certificate_retrieve(kp_uuid=pair.pk).data[:10],
        "provider": providers.providers_ldap_retrieve(id=first.pk).name == first.name,
        "providers": len(providers.providers_all_list().results),
        "flow": flows.flows_instances_retrieve(slug=flows.flows_instances_list().results[0].slug).slug != "",
        "applications": len(rest.core_applications_list(superuser_full_list=True).results),
        "brand": rest.core_brands_current_retrieve().branding_title,
        "sessions": len(rest.core_authenticated_sessions_list().results),
        "cache": root_api.RootApi(own).root_config_retrieve().cache_timeout,
        "events": len(events_api.EventsApi(all_rights).events_events_list().results) > 0,
    },
    sys.stdout,
)
"""


@pytest.mark.parametrize("release", ["2026.5", "2025.10"])
async def test_every_list_is_valid_for_the_official_client(release: str) -> None:
    """Outpost's own lists, directory, certificates, and the administrator's view."""
    package = peer_programs.folder(f"authentik-client-{release}")
    async with core() as running:
        # the 2025.10 models allow no application without provider
        lonely = running.database.first(models.Application, slug="proxy-denied")
        assert lonely is not None
        running.database.delete(lonely)
        await running.client().login("alice", "alice-pw-1")
        peer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env={"PYTHONPATH": str(package)},
        )  # fmt: skip
        facts = json.dumps([running.url, ADMIN_TOKEN, running.outpost_token()]).encode()
        try:
            output, errors = await asyncio.wait_for(peer.communicate(facts), CALLS_TIMEOUT_S)
        finally:
            if peer.returncode is None:
                peer.kill()
                await peer.wait()
        assert peer.returncode == 0, errors.decode()
        answer = json.loads(output)
        expected_users = [user.username for user in running.database.find(models.User)]
        assert answer["users"] == sorted(expected_users)
        assert answer["groups"] == sorted(group.name for group in running.database.find(models.Group))
        counts = {name: answer[name] for name in ("instances", "ldap", "radius", "proxy", "providers", "applications")}
        assert counts == {
            "instances": 1, "ldap": 3, "radius": 0, "proxy": 0, "providers": running.database.count(models.Provider),
            "applications": running.database.count(models.Application),
        }  # fmt: skip
        assert answer["me"].startswith("ak-outpost-")
        assert answer["check"] is True
        assert answer["certificate"] == "-----BEGIN"
        assert (answer["provider"], answer["flow"], answer["events"], answer["sessions"]) == (True, True, True, 1)
        assert answer["cache"] == 300
