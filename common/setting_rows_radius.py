"""The rows of RADIUS and RadSec for ``common/setting_rows.py``, where the columns are explained.

The defaults do what the core's own RADIUS outpost does, except where that would be unsafe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import setting_values as values
from common.setting_values import ExtraSetting, Kind

MAX_VLAN_SIZE = 253  # octets of Tunnel-Private-Group-ID (RFC 2868 §3.6)


def _policy(value: object) -> str:
    """``auto``, ``yes`` or ``no``; YAML and JSON may have made a truth value of the last two."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(AUTO_YES_NO.parse(value))


AUTO_YES_NO = values.choice("auto", "yes", "no")
POLICY = Kind("choice", "auto, yes, no", _policy)


def _everywhere_or_some(value: object) -> bool | tuple[int, ...]:
    """True, false, or for which providers (their ids on the core)."""
    if isinstance(value, list | tuple):
        return tuple(_ID.parse(item) for item in value)
    try:
        # A single 0 or 1 is a truth value; a list says [1].
        return bool(values.BOOLEAN.parse(value))
    except ValueError:
        return tuple(_ID.parse(item) for item in values.split_list(value))


_ID = values.number(0)
BOOLEAN_OR_IDS = Kind("boolean or ids", "true, false, or a list of provider ids such as [4, 7]", _everywhere_or_some)


def _vlans(value: object) -> tuple[tuple[str, str], ...]:
    """(group, VLAN) in the given order."""
    if isinstance(value, Mapping):
        pairs = [(str(group), str(vlan)) for group, vlan in value.items()]
    else:
        pairs = []
        for item in values.split_list(value):
            group, separator, vlan = item.rpartition("=")
            if not separator:
                raise ValueError("an item without =")
            pairs.append((group, vlan))
    pairs = [(group.strip(), vlan.strip()) for group, vlan in pairs]
    if not all(group and vlan and len(vlan.encode()) <= MAX_VLAN_SIZE for group, vlan in pairs):
        raise ValueError("a group or VLAN that is empty or too long")
    return tuple(pairs)


def _is_group_to_vlan(value: Mapping[Any, object]) -> bool:
    """``{staff: 20}``; what is keyed by provider name has objects or texts with ``=`` in it."""
    return bool(value) and all(
        type(vlan) is int or (isinstance(vlan, str) and vlan.strip() and "=" not in vlan) for vlan in value.values()
    )


VLANS = Kind(
    "VLANs",
    "comma list of GROUP=VLAN such as staff=20, guests=30, or an object {staff: 20, guests: 30}",
    _vlans,
    is_object=_is_group_to_vlan,
)


def _row(name: str, kind: Kind, default: object, unit: str, help: str) -> ExtraSetting:
    return ExtraSetting("radius", name, kind, default, unit, help)


ROWS: tuple[ExtraSetting, ...] = (
    # What is taken from whom
    _row(
        "require_message_authenticator",
        POLICY,
        "auto",
        "",
        "Whether a password request needs a Message-Authenticator (CVE-2024-3596). `auto`: not with Proxy-State, and "
        "no more without it from a client that has once sent a right one; `yes`: always; `no`: never (for several "
        "clients behind one address). EAP and Status-Server always need it; a wrong one is always dropped.",
    ),
    _row(
        "deadline",
        values.duration(1),
        30.0,
        "s",
        "Time for one request. Later results are kept for the client's next copy of it but not sent by themselves.",
    ),
    _row(
        "duplicate_ttl",
        values.duration(5),
        15.0,
        "s",
        "How long a reply is kept and sent again for an equal packet (RFC 5080 §2.2.2: 5 to 30).",
    ),
    _row(
        "client_ip",
        values.choice("nas", "calling-station"),
        "nas",
        "",
        "Whose address the core is told: the client's (NAS), or Calling-Station-Id if that is an IP address.",
    ),
    _row("strip_realm", values.BOOLEAN, False, "", "Leave out `@realm` at the end of user names."),
    # How logins go
    _row(
        "on_core_error",
        values.choice("drop", "reject"),
        "drop",
        "",
        "When the core cannot decide: no reply, so that the client asks its next server, or Access-Reject.",
    ),
    _row(
        "on_mapping_error",
        values.choice("accept", "reject"),
        "accept",
        "",
        "When the core's property mappings of a passing user fail: Access-Accept without attributes, or a reject.",
    ),
    _row(
        "login_timeout",
        values.duration(1),
        90.0,
        "s",
        "Whole time of one login on the core. A push confirmation blocks up to 75 s there; `deadline` is the client's.",
    ),
    _row("allow_push_only", values.BOOLEAN, False, "", "A confirmed push may be all that a flow asks for."),
    _row(
        "challenge",
        BOOLEAN_OR_IDS,
        False,
        "",
        "Ask users for a second factor with Access-Challenge. True, or a list of provider ids.",
    ),
    _row(
        "auto_consent",
        BOOLEAN_OR_IDS,
        False,
        "",
        "Answer consent stages of a flow with yes. True, or a list of provider ids.",
    ),
    _row(
        "logout",
        values.BOOLEAN,
        False,
        "",
        "End the core's session after each login. Not together with `das`, which needs it.",
    ),
    # EAP
    _row(
        "eap_types",
        values.choices("tls", "ttls", "peap", empty=True),
        ("tls",),
        "",
        "EAP methods, in the order in which they are offered. All need a certificate.",
    ),
    _row(
        "tls_certificate",
        values.TEXT,
        "",
        "",
        "File with certificate and chain (PEM) for EAP and RadSec where the provider has none on the core; read again "
        "when it changes.",
    ),
    _row("tls_key", values.TEXT, "", "", "File with the private key (PEM) for `tls_certificate`."),
    _row(
        "client_ca",
        values.TEXT,
        "",
        "",
        "EAP-TLS: issuers of client certificates, PEM text (or `file://PATH`). Empty: the core's certificate stage "
        "alone decides, and a flow that asks for a user name is refused.",
    ),
    _row(
        "eap_require_ca",
        values.BOOLEAN,
        False,
        "",
        "Refuse EAP-TLS without `client_ca`; and where there is one, refuse passwords before the flow.",
    ),
    _row(
        "eap_bind_identity",
        values.BOOLEAN,
        True,
        "",
        "EAP-TLS: the core's user must be one that the certificate names (common name, subject or e-mail).",
    ),
    _row(
        "client_crl",
        values.TEXT,
        "",
        "",
        "EAP-TLS: file with revocation lists (PEM) of the issuers in `client_ca`; read again when it changes. A "
        "certificate whose issuer has no current list in it is refused.",
    ),
    _row(
        "crl_whole_chain",
        values.BOOLEAN,
        False,
        "",
        "EAP-TLS: with `client_crl`, every certificate up to the trusted issuer needs a current list, not only the "
        "client's own.",
    ),
    _row(
        "tls_status",
        values.TEXT,
        "",
        "",
        "File with the OCSP response (DER) for the server certificate, given to EAP clients that ask; read again when "
        "it changes.",
    ),
    _row(
        "tunnel_tls13",
        values.BOOLEAN,
        False,
        "",
        "TLS 1.3 for TTLS and PEAP too (RFC 9427). Off: TLS 1.2, which all supplicants know.",
    ),
    _row(
        "eap_memory",
        values.size(2**20),
        256 * 2**20,
        "bytes",
        "Memory of EAP conversations in one process; beyond, the one that has waited longest is given up. In a TLS "
        "handshake one holds some 56 KiB, so these are 4,600, and two processors manage 1,000 handshakes a second.",
    ),
    # Replies
    _row("reply_message", values.BOOLEAN, False, "", "A neutral Reply-Message in rejects; never with EAP."),
    _row(
        "reject_delay",
        values.duration(),
        0.0,
        "s",
        "Wait before each Access-Reject of a login that was tried; slows down guessing.",
    ),
    _row("class", values.BOOLEAN, False, "", "Class with 16 random octets in each Access-Accept, for accounting."),
    _row("echo_user", values.BOOLEAN, False, "", "User-Name in each Access-Accept, as the core writes it."),
    _row(
        "vlan_by_group",
        VLANS,
        (),
        "",
        "VLAN of users by their group on the core; the first group that fits counts. A core may change the order of an "
        "object (PostgreSQL does): write a list where it matters.",
    ),
    # Accounting and changes of authorization
    _row("accounting", values.BOOLEAN, False, "", "Take accounting (RFC 2866), also on `OUTPOSTS_LISTEN__ACCOUNTING`."),
    _row(
        "accounting_record",
        values.choice("memory", "sqlite", "redis"),
        "memory",
        "",
        "Where sessions are recorded: only in memory, in a file below `OUTPOSTS_STATE_DIR`, or in the Redis or "
        "Valkey of `OUTPOSTS_REDIS_URL`. Requests are answered when that is done. Holds for the whole daemon.",
    ),
    _row(
        "accounting_keep",
        values.duration(60),
        2_592_000.0,
        "s",
        "How long ended sessions stay in the record: 30 days. Holds for the whole daemon.",
    ),
    _row(
        "accounting_events",
        values.BOOLEAN,
        False,
        "",
        "An event `custom_radius_accounting` on the core for each accounting request.",
    ),
    _row(
        "accounting_max_sessions",
        values.number(1, 10_000_000),
        50_000,
        "sessions",
        "Open sessions kept in memory, about 1.9 KiB each. Holds for the whole daemon.",
    ),
    _row(
        "accounting_stale",
        values.duration(60),
        86_400.0,
        "s",
        "A session that nothing was heard of for so long has ended without a word. Holds for the whole daemon.",
    ),
    _row("das", values.BOOLEAN, False, "", "Send Disconnect-Request (RFC 5176) when a session ends on the core."),
    _row("das_port", values.number(1, 65_535), 3799, "", "UDP port of clients that take Disconnect-Requests."),
    _row(
        "das_remember",
        values.duration(60),
        86_400.0,
        "s",
        "How long a login is remembered for `das`; as long as sessions of the core last. Holds for the whole daemon.",
    ),
    _row(
        "das_max_logins",
        values.number(1, 10_000_000),
        50_000,
        "logins",
        "Logins remembered for `das`, about 1.2 KiB each; beyond, the oldest go. Holds for the whole daemon.",
    ),
    # Load and attacks
    _row(
        "max_pending",
        values.number(1, 1_000_000),
        1000,
        "requests",
        "Requests in progress, waiting ones included; more are dropped. A thousand wait 16 s for a core that answers "
        "sixty a second, which is half of `deadline`.",
    ),
    _row(
        "max_pending_per_nas",
        values.number(1, 1_000_000),
        500,
        "requests",
        "The same for one client, so that none can use up the room of the others. A proxy in front that speaks for all "
        "clients needs as many as `max_pending`.",
    ),
    _row(
        "max_flows",
        values.number(1, 10_000),
        64,
        "logins",
        "Logins that run on the core at once; others wait, and clients take turns.",
    ),
    _row(
        "failures",
        values.number(0, 1_000_000),
        10,
        "logins",
        "Failed logins of one account through one client before it has to wait there (rejected without asking the "
        "core): 1 s, doubled with each further failure. A success forgets them. 0: no limit.",
    ),
    _row(
        "failures_per_nas",
        values.number(0, 1_000_000),
        0,
        "logins",
        "The same for one client (NAS) and all accounts. Off by default: a client speaks for all people behind it, "
        "and one of them could lock out the others. 0: no limit.",
    ),
    _row(
        "failures_per_account",
        values.number(0, 1_000_000),
        50,
        "logins",
        "Failed logins of one account from anywhere before its logins are delayed, by at most 5 s; they are never "
        "refused, so nobody can lock somebody else out. 0: no limit.",
    ),
    _row("failure_backoff_max", values.duration(1), 300.0, "s", "Longest wait after failed logins."),
    _row(
        "status_rate",
        values.number(0, 1_000_000),
        20,
        "requests/s",
        "Status-Server requests of one client that are answered; watch-dogs send one every few seconds. 0: any.",
    ),
    ExtraSetting(
        "radsec",
        "clients",
        values.TEXT_LIST,
        (),
        "",
        "Certificates of a provider's clients, by what they hold: DNS name (`*.example.org` for one label), IP "
        "address, URI, e-mail address or SHA-256 fingerprint; `psk:NAME` for a key; `*` for whoever has a certificate "
        "of `ca`. An object keyed by provider name.",
    ),
    ExtraSetting(
        "radsec",
        "ca",
        values.TEXT,
        "",
        "",
        "File with the issuers of client certificates (PEM), and with their revocation lists if there are any; read "
        "again when it changes. Without it only fingerprints count.",
    ),
    ExtraSetting(
        "radsec",
        "versions",
        values.choices("1.0", "1.1"),
        ("1.0", "1.1"),
        "",
        "RADIUS/1.0 (RFC 6614) and RADIUS/1.1 (RFC 9765, needs TLS 1.3), chosen by the client through ALPN.",
    ),
    ExtraSetting(
        "radsec",
        "psk_file",
        values.TEXT,
        "",
        "",
        "File with keys for clients without certificate, one `NAME KEY` a line, KEY in hex, 16 octets or more. Needs "
        "Python 3.13 and `OUTPOSTS_LISTEN__RADSEC_PSK`.",
    ),
    ExtraSetting("radsec", "idle_timeout", values.duration(10), 300.0, "s", "A connection that is silent is closed."),
    ExtraSetting(
        "radsec",
        "handshake_timeout",
        values.duration(1),
        10.0,
        "s",
        "Time for a TLS handshake.",
    ),
    ExtraSetting(
        "radsec",
        "max_connections",
        values.number(1, 100_000),
        1000,
        "connections",
        "Open connections; about 65 KiB each, TLS included.",
    ),
    ExtraSetting(
        "radsec",
        "max_connections_per_address",
        values.number(1, 100_000),
        64,
        "connections",
        "The same for one address.",
    ),
    ExtraSetting(
        "radsec",
        "max_outstanding",
        values.number(1, 10_000),
        256,
        "requests",
        "Requests of one connection that are being worked on; reading pauses at that. RADIUS/1.0 has no more than 256.",
    ),
)
