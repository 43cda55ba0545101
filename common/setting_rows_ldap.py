"""The rows of LDAP for ``common/setting_rows.py``, where the columns are explained.

The defaults do what the core's own LDAP outpost does, except where that would be unsafe or against the standards.
"""

from __future__ import annotations

from common import setting_values as values
from common.setting_values import ExtraSetting

ROWS: tuple[ExtraSetting, ...] = (
    ExtraSetting(
        "ldap",
        "dn_attribute",
        values.choice("cn", "uid"),
        "cn",
        "",
        "Attribute that names users: `cn=alice,ou=users,…`.",
    ),
    ExtraSetting(
        "ldap",
        "uid",
        values.choice("hash", "username"),
        "hash",
        "",
        "What `uid` holds: the core's 64-digit user id, or the login name (always so when `uid` names users).",
    ),
    ExtraSetting(
        "ldap", "nested_groups", values.BOOLEAN, False, "", "`memberOf` and `member` also through child groups."
    ),
    ExtraSetting("ldap", "strict", values.BOOLEAN, False, "", "Answer 32 (no such object) for an unknown search base."),
    ExtraSetting(
        "ldap",
        "bind_names",
        values.choices("dn", "username", "mail", "upn"),
        ("dn",),
        "",
        "What a bind may name a user by.",
    ),
    ExtraSetting("ldap", "require_tls", values.BOOLEAN, False, "", "Refuse passwords on connections without TLS (13)."),
    ExtraSetting(
        "ldap",
        "password_flow",
        values.TEXT,
        "",
        "",
        "Kept for a flow that changes passwords. Has no effect: password modify is always refused (53), because such a "
        "flow asks questions that LDAP cannot put to anybody.",
    ),
    ExtraSetting(
        "ldap",
        "client_certificates",
        values.BOOLEAN,
        False,
        "",
        "Ask TLS clients for a certificate, and take it for SASL EXTERNAL. The outpost's service account needs the "
        "core's permission `authentik_stages_mtls.pass_outpost_certificate`.",
    ),
    ExtraSetting(
        "ldap",
        "client_ca",
        values.TEXT,
        "",
        "",
        "Issuers of client certificates, PEM text (or `file://PATH`). Empty: the core's certificate stage alone "
        "decides, and a flow that asks for a user name is refused.",
    ),
    ExtraSetting(
        "ldap",
        "gid",
        values.choice("reference", "hash"),
        "reference",
        "",
        "How groups get their `gidNumber`: the core's numbering, or 2^20 plus 30 bits of the SHA-256 of their uuid.",
    ),
    ExtraSetting(
        "ldap",
        "extra_attributes",
        values.choices(
            "loginShell",
            "gecos",
            "givenName",
            "distinguishedName",
            "userPrincipalName",
            "userAccountControl",
            "memberUid",
            "uniqueMember",
            empty=True,
        ),
        (),
        "",
        "Attributes that entries carry in addition. Objects' own attributes of these names win, except `memberUid` and "
        "`uniqueMember`, which follow `member`.",
    ),
    ExtraSetting(
        "ldap",
        "login_shell",
        values.TEXT,
        "/bin/bash",
        "",
        "Value of `loginShell` for users without an attribute `loginShell`, if `extra_attributes` names it.",
    ),
    ExtraSetting(
        "ldap",
        "only_groups",
        values.TEXT_LIST,
        (),
        "",
        "Names or uuids of groups: only these, the groups below them and their members are shown. Empty: everything. "
        "Who may bind is up to the core.",
    ),
    ExtraSetting("ldap", "active_only", values.BOOLEAN, False, "", "Show active users only, also as members."),
    ExtraSetting(
        "ldap",
        "attributes_allow",
        values.TEXT_LIST,
        (),
        "",
        "The only attributes of users and groups that exist here, besides `objectClass`, the naming attribute and what "
        "the server computes. Empty: all.",
    ),
    ExtraSetting(
        "ldap",
        "attributes_deny",
        values.TEXT_LIST,
        (),
        "",
        "Attributes of users and groups that do not exist here, whatever `attributes_allow` says.",
    ),
    ExtraSetting(
        "ldap", "bind_cache_max", values.duration(), 300.0, "s", "Longest time for which a cached bind skips the flow."
    ),
    ExtraSetting(
        "ldap", "bind_cache_mfa", values.duration(), 60.0, "s", "The same for a bind that used a one-time code."
    ),
    ExtraSetting(
        "ldap",
        "bind_cache_size",
        values.number(0, 10_000_000),
        100_000,
        "entries",
        "Successful binds remembered per provider; about 300 bytes each. 0 remembers none.",
    ),
    ExtraSetting(
        "ldap",
        "offline_grace",
        values.duration(),
        600.0,
        "s",
        "How long after its end a cached bind still counts while the core does not answer.",
    ),
    ExtraSetting(
        "ldap",
        "allow_push_only",
        values.BOOLEAN,
        False,
        "",
        "Accept a login flow that never asks for the password (push confirmation only).",
    ),
    ExtraSetting(
        "ldap",
        "login_timeout",
        values.duration(1),
        90.0,
        "s",
        "Whole time of one bind. A push confirmation blocks up to 75 s on the core.",
    ),
    ExtraSetting(
        "ldap",
        "undecided_code",
        values.choice("exact", "invalid_credentials"),
        "exact",
        "",
        "Answer to a bind that could not be decided: `exact` says busy (51), unavailable (52) or other (80); "
        "`invalid_credentials` says 49, for clients that end or drop the server when they hear of anything else. Such "
        "a client then takes a silent core for a wrong password.",
    ),
    ExtraSetting(
        "ldap",
        "bind_failures",
        values.number(0, 1_000_000),
        10,
        "binds",
        "Failed binds of one account from one address before it has to wait there (busy, 51): 1 s, doubled with each "
        "further failure. People mistype three or four times. A success forgets them. 0: no limit.",
    ),
    ExtraSetting(
        "ldap",
        "bind_failures_per_address",
        values.number(0, 1_000_000),
        200,
        "binds",
        "The same for one address (IPv6: a /64) and all accounts, but what the bind cache knows is still answered. One "
        "application server may bind for a thousand people. 0: no limit.",
    ),
    ExtraSetting(
        "ldap",
        "bind_failures_per_account",
        values.number(0, 1_000_000),
        50,
        "binds",
        "Failed binds of one account from anywhere before its binds are delayed, by at most 5 s; they are never "
        "refused, so nobody can lock somebody else out. 0: no limit.",
    ),
    ExtraSetting(
        "ldap",
        "bind_backoff_max",
        values.duration(1),
        300.0,
        "s",
        "Longest wait after failed binds. In this time one failure of an account at an address is forgiven, and all of "
        "an address or of an account.",
    ),
    ExtraSetting(
        "ldap",
        "max_message_size_anonymous",
        values.size(1024),
        65_536,
        "bytes",
        "Largest message before a bind. A bind is a name and a password: 64 KiB leaves room for tokens.",
    ),
    ExtraSetting(
        "ldap",
        "max_message_size",
        values.size(1024),
        4_194_304,
        "bytes",
        "Largest message after a bind: 4 MiB is a filter with tens of thousands of terms; OpenLDAP has the same.",
    ),
    ExtraSetting(
        "ldap",
        "max_nesting",
        values.number(4, 1000),
        64,
        "levels",
        "Deepest nesting of a filter. Filters made by programs stay below 10; OpenLDAP cuts at 100.",
    ),
    ExtraSetting(
        "ldap",
        "max_connections",
        values.number(1, 1_000_000),
        10_000,
        "connections",
        "Open connections of one process; further ones are closed at once.",
    ),
    ExtraSetting(
        "ldap",
        "max_connections_per_address",
        values.number(1, 1_000_000),
        1_000,
        "connections",
        "Open connections from one client address. Connection pools of many applications may share one.",
    ),
    ExtraSetting(
        "ldap",
        "max_requests",
        values.number(1, 10_000),
        100,
        "requests",
        "Requests of one connection in progress at the same time; reading pauses beyond it.",
    ),
    ExtraSetting(
        "ldap",
        "max_followers",
        values.number(0, 1_000_000),
        1_000,
        "searches",
        "Searches of one process that wait for changes (content synchronization, persistent search). Each costs a few "
        "KiB and, at a change, what it is told. 0 allows none.",
    ),
    ExtraSetting(
        "ldap",
        "max_followers_per_connection",
        values.number(0, 1_000),
        10,
        "searches",
        "The same for one connection. Consumers use one connection for each search.",
    ),
    ExtraSetting(
        "ldap",
        "sync_history",
        values.number(0, 1_000),
        16,
        "refreshes",
        "Refreshes with changes that are remembered, so that a consumer that comes back gets the difference instead of "
        "everything; about 100 bytes per change, never more changes than the directory has entries.",
    ),
    ExtraSetting(
        "ldap",
        "max_attributes",
        values.number(1, 1_000_000),
        1_000,
        "attributes",
        "Attributes that one search may ask for (11 beyond it). Clients name a few dozen at most.",
    ),
    ExtraSetting(
        "ldap",
        "message_timeout",
        values.duration(1),
        30.0,
        "s",
        "Time for a message that has begun, or a TLS handshake, to be complete: slow senders are cut off, however "
        "steadily they drip.",
    ),
    ExtraSetting(
        "ldap",
        "anonymous_timeout",
        values.duration(1),
        60.0,
        "s",
        "Silence after which a connection without a bound user is closed.",
    ),
    ExtraSetting(
        "ldap",
        "idle_timeout",
        values.duration(1),
        900.0,
        "s",
        "Silence after which a bound connection is closed: 15 minutes, as in Active Directory's MaxConnIdleTime.",
    ),
    ExtraSetting(
        "ldap",
        "write_timeout",
        values.duration(1),
        30.0,
        "s",
        "How long a client may leave an answer unread before it is cut off.",
    ),
    ExtraSetting(
        "ldap",
        "size_limit",
        values.number(0, 2_147_483_647),
        0,
        "entries",
        "Most entries in one answer, or in one page of paged results; a search that finds more ends with 11. 0: any.",
    ),
    ExtraSetting(
        "ldap",
        "time_limit",
        values.duration(),
        3600.0,
        "s",
        "Longest time for one search with its transfer, then it ends with 3; OpenLDAP has the same default. 0: any.",
    ),
    ExtraSetting(
        "ldap",
        "search_timeout",
        values.duration(1),
        60.0,
        "s",
        "Whole time of one search that has to ask the core (direct mode).",
    ),
)
