"""python-ldap (libldap) against the real daemon and the real embedded core, in a process of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

from tests import peer_programs
from tests.peers.suite import ALICE, BASE, SEARCH, SEARCH_PASSWORD, Suite, run_peer

SCRIPT = """
import json, sys
import ldap
from ldap.filter import escape_filter_chars

url, base, dn, password, alice = json.load(sys.stdin)
link = ldap.initialize(url)
link.set_option(ldap.OPT_NETWORK_TIMEOUT, 10)
link.set_option(ldap.OPT_TIMEOUT, 20)
answer = {}
try:
    link.simple_bind_s(alice, "wrong")
except ldap.INVALID_CREDENTIALS as refused:
    answer["wrong"] = refused.args[0]["result"]
link.simple_bind_s(dn, password)
found = link.search_s(base, ldap.SCOPE_SUBTREE, "(objectClass=*)")
answer["everything"] = [name for name, _ in found]
uid = link.search_s(alice, ldap.SCOPE_BASE, attrlist=["uid"])[0][1]["uid"][0].decode()
for text in (
    "(cn=alice)", "(sAMAccountName=alice)", "(mail=alice@example.org)",
    "(memberOf=%s)" % escape_filter_chars("cn=staff,ou=groups," + base), "(uid=%s)" % uid,
):
    answer[text] = [name for name, _ in link.search_s(base, ldap.SCOPE_SUBTREE, text, ["cn"])]
link.unbind_s()
json.dump(answer, sys.stdout)
"""


def test_bind_search_and_refusal(suite: Suite) -> None:
    """The whole directory, alice in every way, a wrong password is 49."""
    peer_programs.folder("python-ldap")
    facts = json.dumps([suite.ldap_url, BASE, SEARCH, SEARCH_PASSWORD, ALICE])
    done = run_peer([sys.executable, "-c", SCRIPT], package="python-ldap", stdin=facts)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer.pop("wrong") == 49
    everything = answer.pop("everything")
    assert ALICE in everything
    assert len([dn for dn in everything if dn.endswith(f",ou=users,{BASE}")]) >= 53
    assert len(answer) == 5
    for filter, dns in answer.items():
        assert ALICE in dns, filter
