"""LDAP: our daemon (cached search and bind, in front of a fake core) beside slapd with the same entries.

Measured alternately, ours and slapd's, medians reported: searches for one entry by an indexed equality and by name over
several connections, listing all people, other clients' searches while one lists, filters that slapd answers with and
without an index for them, simple binds of known users, memory. slapd is loaded with exactly the entries that our daemon
serves, so both carry the same attributes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import direct_bind, ldap_data, measure, slapd
from benchmarks.measure import BASE, MESSAGE_ID, PASSWORD, PEOPLE, Kind, Plan, Row, Server, login_of
from tests import daemons, factories
from tests.fakes import StubCore
from tests.ldap_client import BASE as BASE_SCOPE
from tests.ldap_client import ONE, SUB, Client, message, search_operation

KNOWN = ldap_data.username(42)
BINDERS = 64  # users whose binds are timed
FILTER_REQUESTS = 500  # different values for each kind of filter, more than our daemon remembers the results of
# Our own limits, raised so that the run does not meet them, and printed.
RAISED = {"OUTPOSTS_LDAP__BIND_CACHE_MAX": "86400"}
SETTINGS = {"OUTPOSTS_LDAP__UID": "username", "AUTHENTIK_LDAP__PAGE_SIZE": "100"}
QUICK = Plan(users=2_000, seconds=1.0, warm_up_s=0.3, rounds=1)
UID_START = 2000  # the provider's uid_start_number: a user's uidNumber is this and its pk

Say = Callable[[str], None]


def records(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The users and groups as the core lists them, and the user that searches."""
    users: list[dict[str, Any]] = [json.loads(raw) for raw in ldap_data.raw_users(count)]
    users.append(factories.user(count + 1, "search"))
    return users, [json.loads(raw) for raw in ldap_data.raw_groups(count)]


def check(servers: Sequence[Server], plan: Plan) -> int:
    """All servers answer the timed requests with the same entries; returns attributes per person."""
    seen = []
    for server in servers:
        with Client(server.address) as client:
            assert client.bind(f"cn=search,{PEOPLE}", PASSWORD).code == 0, server.name
            assert client.bind(f"cn=search,{PEOPLE}", PASSWORD + "x").code == 49, server.name
            assert client.bind(f"cn=search,{PEOPLE}", PASSWORD).code == 0, server.name
            people = client.search(PEOPLE, ONE)
            assert people.code == 0 and len(people.entries) == plan.users + 1, (server.name, len(people.entries))
            one = client.search(PEOPLE, SUB, f"({server.attribute}={KNOWN})")
            assert [dn.lower() for dn in one.dns] == [f"cn={KNOWN},{PEOPLE}"], (server.name, one.dns)
            seen.append(sorted(dn.lower() for dn in people.dns))
    assert all(names == seen[0] for names in seen)
    return len(one.entries[0].attributes)


def check_filters(servers: Sequence[Server], filters: Sequence[tuple[str, list[str]]]) -> list[int]:
    """All servers find the same with the first filters of each kind, and something; returns how many entries."""
    counts = []
    for what, texts in filters:
        found = []
        for server in servers:
            with Client(server.address) as client:
                assert client.bind(f"cn=search,{PEOPLE}", PASSWORD).code == 0, server.name
                found.append([sorted(dn.lower() for dn in client.search(PEOPLE, SUB, text).dns) for text in texts[:3]])
        assert all(names == found[0] and all(names) for names in found), (what, [list(map(len, f)) for f in found])
        counts.append(len(found[0][0]))
    return counts


def run(plan: Plan, say: Say) -> tuple[list[Row], list[str]]:
    """Do all measurements. Returns the table's rows and facts worth printing beside them."""
    program = slapd_program()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outposts-bench-")))
        core = stack.enter_context(StubCore())
        core.users, core.groups = records(plan.users)
        core.providers["ldap"] = [factories.ldap_provider(search_mode="cached", bind_mode="cached")]
        core.outpost["config"]["log_level"] = "warning"  # slapd does not write a line per request either
        core.people.passwords = {str(user["username"]): PASSWORD for user in core.users}
        say(f"starting our daemon with {plan.users} users …")
        workers = {"OUTPOSTS_WORKERS": str(plan.workers)}
        environment = daemons.outpost_environment(core.url, core.token, **SETTINGS, **RAISED, **workers)
        daemon = stack.enter_context(daemons.running("ldap", environment))
        ours = Server("outposts", daemon.address("ldap"), daemon.pid, "cn")
        say("loading slapd with the same entries …")
        entries = served(ours)
        passwords = {f"cn={name},{PEOPLE}": PASSWORD for name in ["search", *binders(plan)]}

        def peer(name: str, indexes: dict[str, str]) -> Server:
            started = slapd.start(program, entries, BASE, passwords, folder / name, indexes)
            stack.callback(started.stop)
            return Server(name, started.address, started.daemon.pid, "uid")

        theirs = peer("slapd", slapd.EQUALITY)
        servers = (ours, theirs)
        attributes = check(servers, plan)
        rows, busy = timed(servers, plan, say)
        memory = [server.memory() for server in servers]
        say("loading slapd without and with indexes for the filters …")
        rows += filter_rows(ours, peer("bare", slapd.BARE), peer("indexed", slapd.FULL), plan, say)
        rows.append(
            Row(
                "memory, MiB (without mapped files)",
                f"{memory[0][0]:.0f} ({memory[0][1]:.0f})",
                f"{memory[1][0]:.0f} ({memory[1][1]:.0f})",
                memory[1][0] / memory[0][0],
            )
        )
        groups = f"{ldap_data.GROUPS_PER_USER} of {ldap_data.group_count(plan.users)} groups"
        facts = [
            f"{plan.users} users with {attributes} attributes, in {groups} each; "
            f"{plan.rounds} alternating rounds of {plan.seconds:g} s, medians",
            f"slapd {slapd.version(program)}, back-mdb, equality indexes, its default threads; "
            f"ours {'one process' if plan.workers == 1 else f'a supervisor and {plan.workers} workers'}, cached mode; "
            "both without a log line per request",
            "filters: only `cn` is asked for; slapd without an index has the one on objectClass, with one equality "
            "indexes and `mail` pres,eq,sub",
            "our limits for this run: " + ", ".join(f"{name}={value}" for name, value in RAISED.items()),
            f"the load generator used {busy:.0%} of one core at most",
        ]
    say("measuring direct binds …")
    added, calls, whole, spent = direct_bind.measure_added(plan)
    rows.append(
        Row(
            "direct bind, ms added to the core's own calls (median)",
            f"{added:.2f}",
            "–",
            None,
            f"calls alone {calls:.2f} ms, bind {whole:.2f} ms, of these {spent:.2f} ms are processor time of ours; one "
            "connection, a core that answers at once",
        )
    )
    return rows, facts


def slapd_program() -> str:
    """Where slapd is, or the line that installs it."""
    found = shutil.which("slapd") or shutil.which("slapd", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise SystemExit("slapd is not installed; run scripts/install-peers")
    return found


def binders(plan: Plan) -> list[str]:
    """The users whose binds are timed."""
    step = plan.users // BINDERS
    chosen = [number for number in range(1, plan.users, step) if ldap_data.user(number, plan.users)["is_active"]]
    return [ldap_data.username(number) for number in chosen[:BINDERS]]


def served(server: Server) -> list[slapd.Entry]:
    """All people and groups as our daemon serves them."""
    found: list[slapd.Entry] = []
    with Client(server.address) as client:
        assert client.bind(f"cn=search,{PEOPLE}", PASSWORD).code == 0
        for container in (PEOPLE, f"ou=groups,{BASE}"):
            answer = client.search(container, ONE)
            assert answer.code == 0 and answer.entries, answer
            found.extend(slapd.Entry(entry.dn, entry.attributes) for entry in answer.entries)
    return found


def equality(names: Sequence[str], connections: int) -> Kind:
    """Searches for one entry, by the attribute that the server has an index on."""

    def requests(server: Server) -> list[bytes]:
        texts = (f"({server.attribute}={name})" for name in names)
        return [message(MESSAGE_ID, search_operation(PEOPLE, SUB, text)) for text in texts]

    return Kind(f"searches/s, one entry, {connections} connections", requests, connections, login_of("search"))


def base_reads(names: Sequence[str], connections: int) -> Kind:
    """Reads of one entry by its name."""

    def requests(server: Server) -> list[bytes]:
        return [message(MESSAGE_ID, search_operation(f"cn={name},{PEOPLE}", BASE_SCOPE)) for name in names]

    return Kind(f"base reads/s, one entry, {connections} connections", requests, connections, login_of("search"))


def listing(entries: int) -> Kind:
    """All people, over and over."""
    request = message(MESSAGE_ID, search_operation(PEOPLE, ONE))
    title = "listing everybody, entries/s, one connection"
    return Kind(title, lambda server: [request], 1, login_of("search"), entries)


def timed(servers: Sequence[Server], plan: Plan, say: Say) -> tuple[list[Row], float]:
    """Rows of what both do all day; also how busy the load generator was at most."""
    rows: list[Row] = []
    names = [ldap_data.username(number) for number in range(1, plan.users + 1)]
    binds = [login_of(name, MESSAGE_ID) for name in binders(plan)]
    for server in servers:
        for bind in binds:  # the first bind of a user is a login at the core
            measure.exchange(server.address, bind, bind)
    one = equality(names, plan.connections)
    everybody = listing(plan.users + 1)
    busy = 0.0
    for kind, each in (
        (one, "request"),
        (base_reads(names, plan.connections), "request"),
        (everybody, "entry"),
        (
            Kind(f"simple binds/s, {plan.connections} connections", lambda _: binds, plan.connections, binds[0]),
            "request",
        ),
    ):
        say(f"measuring {kind.title} …")
        ours, theirs = measure.take(kind, servers, plan)
        rows += [measure.row(kind.title, ours, theirs), measure.cpu_row(each, ours, theirs)]
        busy = max(busy, ours.generator_busy, theirs.generator_busy)
    say("measuring searches while another client lists everybody …")
    rows.append(crowd(servers, one, everybody, plan))
    return rows, busy


def crowd(servers: Sequence[Server], one: Kind, everybody: Kind, plan: Plan) -> Row:
    """Searches of others while one connection lists everybody in a loop, as a share of their usual rate."""
    shares, rates = [], []
    for server in servers:
        job = one.job(server, plan)
        alone = measure.load(job)["rate"]
        crowded = measure.alongside(job, everybody.job(server, plan))["rate"]
        shares.append(crowded / alone)
        rates.append(crowded)
    return Row(
        "  the searches while another connection lists everybody (share of alone)",
        f"{rates[0]:,.0f} ({shares[0]:.0%})",
        f"{rates[1]:,.0f} ({shares[1]:.0%})",
        rates[0] / rates[1],
    )


def filters(users: int) -> list[tuple[str, list[str]]]:
    """Filters by kind, each with many values: (what the table says, filters)."""
    numbers = [1 + place * users // FILTER_REQUESTS for place in range(FILTER_REQUESTS)]
    groups = [ldap_data.group_name(place % ldap_data.group_count(users)) for place in range(FILTER_REQUESTS)]
    top = UID_START + users - 50  # the last fifty
    return [
        (
            "(&(objectClass=user)(memberOf=…)(!(mail=*x*)))",
            [f"(&(objectClass=user)(memberOf=cn={group},ou=groups,{BASE})(!(mail=*gina*)))" for group in groups],
        ),
        ("(mail=*foo*)", [f"(mail=*.{number}@*)" for number in numbers]),
        ("(uidNumber>=…)", [f"(uidNumber>={top + place % 40})" for place in range(FILTER_REQUESTS)]),
    ]


def filter_rows(ours: Server, bare: Server, indexed: Server, plan: Plan, say: Say) -> list[Row]:
    """Filters without any index set up by hand, beside slapd without and with one."""
    rows = []
    servers = (ours, bare, indexed)
    chosen = filters(plan.users)
    for (what, texts), count in zip(chosen, check_filters(servers, chosen), strict=True):
        say(f"measuring {what} …")
        requests = [message(MESSAGE_ID, search_operation(PEOPLE, SUB, text, ["cn"])) for text in texts]
        kind = Kind(what, lambda server, requests=requests: requests, plan.connections, login_of("search"))  # type: ignore[misc]
        mine, without, with_index = measure.take(kind, servers, plan)
        title = f"`{what}`/s, {count} found"
        rows.append(measure.row(f"{title}; slapd without an index on it", mine, without))
        rows.append(measure.row("  slapd with one", mine, with_index))
    return rows
