"""The official API client, two release lines, reads the embedded core; it checks every answer against its models."""

from __future__ import annotations

import json
import sys

import pytest

from tests import peer_programs
from tests.peers.suite import ADMIN_TOKEN, Suite, outpost_token, run_peer

SCRIPT = """
import json, sys
from authentik_client import ApiClient, Configuration
from authentik_client.api import core_api, flows_api, outposts_api, providers_api, root_api

url, admin, outpost = json.load(sys.stdin)


def client(token):
    return ApiClient(Configuration(host=url + "/api/v3", access_token=token))


answer = {}
with client(outpost) as own:
    outposts = outposts_api.OutpostsApi(own)
    answer["instances"] = [item.name for item in outposts.outposts_instances_list().results]
    answer["ldap"] = [item.base_dn for item in outposts.outposts_ldap_list().results]
    answer["users"] = [item.username for item in core_api.CoreApi(own).core_users_list(page_size=100).results]
    groups = core_api.CoreApi(own).core_groups_list(include_users=True)
    answer["groups"] = [item.name for item in groups.results]
    answer["cache"] = root_api.RootApi(own).root_config_retrieve().cache_timeout
with client(admin) as all_rights:
    answer["flows"] = [item.slug for item in flows_api.FlowsApi(all_rights).flows_instances_list(page_size=100).results]
    answer["providers"] = [item.name for item in providers_api.ProvidersApi(all_rights).providers_all_list().results]
    answer["me"] = core_api.CoreApi(all_rights).core_users_me_retrieve().user.username
json.dump(answer, sys.stdout)
"""


@pytest.mark.slow  # importing the client's thousands of models takes that long
@pytest.mark.parametrize("release", ["2026.5", "2025.10"])
def test_lists_are_read_without_a_validation_error(suite: Suite, release: str) -> None:
    """Instances, providers, users, groups, flows."""
    package = f"authentik-client-{release}"
    peer_programs.folder(package)
    facts = json.dumps([suite.core_url, ADMIN_TOKEN, outpost_token(suite.folder, "demo-ldap")])
    done = run_peer([sys.executable, "-c", SCRIPT], package=package, stdin=facts)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["instances"] == ["demo-ldap"]
    assert answer["ldap"] == ["DC=ldap,DC=goauthentik,DC=io"]
    assert {"alice", "bob", "search", "user01"} <= set(answer["users"])
    assert {"staff", "admins", "everyone"} <= set(answer["groups"])
    assert {"ldap-authentication-flow", "default-invalidation-flow"} <= set(answer["flows"])
    assert "Demo LDAP" in answer["providers"]
    assert answer["me"] == "akadmin"
