"""Names and numbers of LDAP, each with the section that defines it. Facts only: no code path decides anything here.

Enumerations that come from a peer survive values we do not know: ``ResultCode(4711)`` gives a member named
``UNKNOWN_4711`` instead of an exception.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

LDAP_VERSION: Final = 3
"""RFC 4511 §4.2: the only version this server speaks."""

MAX_INT: Final = 2**31 - 1
"""RFC 4511 §4.1.1: maxInt, the largest message id, size limit and time limit."""


class ResultCode(IntEnum):
    """RFC 4511 §4.1.9 and appendix A; further codes from the IANA registry with their RFC."""

    SUCCESS = 0
    OPERATIONS_ERROR = 1
    PROTOCOL_ERROR = 2
    TIME_LIMIT_EXCEEDED = 3
    SIZE_LIMIT_EXCEEDED = 4
    COMPARE_FALSE = 5
    COMPARE_TRUE = 6
    AUTH_METHOD_NOT_SUPPORTED = 7
    STRONGER_AUTH_REQUIRED = 8
    REFERRAL = 10
    ADMIN_LIMIT_EXCEEDED = 11
    UNAVAILABLE_CRITICAL_EXTENSION = 12
    CONFIDENTIALITY_REQUIRED = 13
    SASL_BIND_IN_PROGRESS = 14
    NO_SUCH_ATTRIBUTE = 16
    UNDEFINED_ATTRIBUTE_TYPE = 17
    INAPPROPRIATE_MATCHING = 18
    CONSTRAINT_VIOLATION = 19
    ATTRIBUTE_OR_VALUE_EXISTS = 20
    INVALID_ATTRIBUTE_SYNTAX = 21
    NO_SUCH_OBJECT = 32
    ALIAS_PROBLEM = 33
    INVALID_DN_SYNTAX = 34
    ALIAS_DEREFERENCING_PROBLEM = 36
    INAPPROPRIATE_AUTHENTICATION = 48
    INVALID_CREDENTIALS = 49
    INSUFFICIENT_ACCESS_RIGHTS = 50
    BUSY = 51
    UNAVAILABLE = 52
    UNWILLING_TO_PERFORM = 53
    LOOP_DETECT = 54
    SORT_CONTROL_MISSING = 60  # draft-ietf-ldapext-ldapv3-vlv-09 §7
    OFFSET_RANGE_ERROR = 61  # draft-ietf-ldapext-ldapv3-vlv-09 §7
    NAMING_VIOLATION = 64
    OBJECT_CLASS_VIOLATION = 65
    NOT_ALLOWED_ON_NON_LEAF = 66
    NOT_ALLOWED_ON_RDN = 67
    ENTRY_ALREADY_EXISTS = 68
    OBJECT_CLASS_MODS_PROHIBITED = 69
    AFFECTS_MULTIPLE_DSAS = 71
    VLV_ERROR = 76  # draft-ietf-ldapext-ldapv3-vlv-09 §7
    OTHER = 80
    CANCELED = 118  # RFC 3909 §2.3
    NO_SUCH_OPERATION = 119  # RFC 3909 §2.3
    TOO_LATE = 120  # RFC 3909 §2.3
    CANNOT_CANCEL = 121  # RFC 3909 §2.3
    ASSERTION_FAILED = 122  # RFC 4528 §3
    AUTHORIZATION_DENIED = 123  # RFC 4370 §4
    SYNC_REFRESH_REQUIRED = 4096  # RFC 4533 §2.6

    @classmethod
    def _missing_(cls, value: object) -> ResultCode | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member


class Scope(IntEnum):
    """RFC 4511 §4.5.1.2; ``subordinateSubtree`` from draft-sermersheim-ldap-subordinate-scope-02."""

    BASE = 0
    ONE = 1
    SUB = 2
    CHILDREN = 3


class DerefAliases(IntEnum):
    """RFC 4511 §4.5.1.3. The directory holds no alias, so the value changes nothing."""

    NEVER = 0
    IN_SEARCHING = 1
    FINDING_BASE = 2
    ALWAYS = 3


class Tag(IntEnum):
    """Identifier octets of protocolOp, RFC 4511 §4.2 to §4.14: [APPLICATION n] with the constructed bit."""

    BIND_REQUEST = 0x60
    BIND_RESPONSE = 0x61
    UNBIND_REQUEST = 0x42
    SEARCH_REQUEST = 0x63
    SEARCH_ENTRY = 0x64
    SEARCH_DONE = 0x65
    SEARCH_REFERENCE = 0x73
    MODIFY_REQUEST = 0x66
    MODIFY_RESPONSE = 0x67
    ADD_REQUEST = 0x68
    ADD_RESPONSE = 0x69
    DELETE_REQUEST = 0x4A
    DELETE_RESPONSE = 0x6B
    MODIFY_DN_REQUEST = 0x6C
    MODIFY_DN_RESPONSE = 0x6D
    COMPARE_REQUEST = 0x6E
    COMPARE_RESPONSE = 0x6F
    ABANDON_REQUEST = 0x50
    EXTENDED_REQUEST = 0x77
    EXTENDED_RESPONSE = 0x78
    INTERMEDIATE_RESPONSE = 0x79


RESPONSE_TAG: Final[dict[int, int]] = {
    Tag.BIND_REQUEST: Tag.BIND_RESPONSE,
    Tag.SEARCH_REQUEST: Tag.SEARCH_DONE,
    Tag.MODIFY_REQUEST: Tag.MODIFY_RESPONSE,
    Tag.ADD_REQUEST: Tag.ADD_RESPONSE,
    Tag.DELETE_REQUEST: Tag.DELETE_RESPONSE,
    Tag.MODIFY_DN_REQUEST: Tag.MODIFY_DN_RESPONSE,
    Tag.COMPARE_REQUEST: Tag.COMPARE_RESPONSE,
    Tag.EXTENDED_REQUEST: Tag.EXTENDED_RESPONSE,
}
"""Request tag → tag of its final response. Unbind and abandon have none (RFC 4511 §4.3, §4.11)."""


class ModifyOperation(IntEnum):
    """RFC 4511 §4.6; increment from RFC 4525."""

    ADD = 0
    DELETE = 1
    REPLACE = 2
    INCREMENT = 3


# Universal tags used by LDAP, X.690 §8.
BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30
SET: Final = 0x31
CONTROLS: Final = 0xA0  # RFC 4511 §4.1.1: controls [0]
REFERRAL_TAG: Final = 0xA3  # RFC 4511 §4.1.9: referral [3]

# Authentication choice, RFC 4511 §4.2.
AUTH_SIMPLE: Final = 0x80
AUTH_SASL: Final = 0xA3


class Extension:
    """Object identifiers of extended operations and unsolicited notifications."""

    NOTICE_OF_DISCONNECTION: Final = "1.3.6.1.4.1.1466.20036"  # RFC 4511 §4.4.1
    START_TLS: Final = "1.3.6.1.4.1.1466.20037"  # RFC 4511 §4.14
    PASSWORD_MODIFY: Final = "1.3.6.1.4.1.4203.1.11.1"  # RFC 3062  # noqa: S105 (an OID)
    WHO_AM_I: Final = "1.3.6.1.4.1.4203.1.11.3"  # RFC 4532
    CANCEL: Final = "1.3.6.1.1.8"  # RFC 3909
    SYNC_INFO: Final = "1.3.6.1.4.1.4203.1.9.1.4"  # RFC 4533 §2.5, an intermediate response


class ControlOid:
    """Object identifiers of controls."""

    PAGED_RESULTS: Final = "1.2.840.113556.1.4.319"  # RFC 2696
    SORT_REQUEST: Final = "1.2.840.113556.1.4.473"  # RFC 2891
    SORT_RESPONSE: Final = "1.2.840.113556.1.4.474"  # RFC 2891
    VLV_REQUEST: Final = "2.16.840.1.113730.3.4.9"  # draft-ietf-ldapext-ldapv3-vlv-09
    VLV_RESPONSE: Final = "2.16.840.1.113730.3.4.10"  # draft-ietf-ldapext-ldapv3-vlv-09
    MANAGE_DSA_IT: Final = "2.16.840.1.113730.3.4.2"  # RFC 3296
    PERSISTENT_SEARCH: Final = "2.16.840.1.113730.3.4.3"  # draft-ietf-ldapext-psearch-03
    ENTRY_CHANGE: Final = "2.16.840.1.113730.3.4.7"  # draft-ietf-ldapext-psearch-03
    PROXIED_AUTHORIZATION: Final = "2.16.840.1.113730.3.4.18"  # RFC 4370
    SUBENTRIES: Final = "1.3.6.1.4.1.4203.1.10.1"  # RFC 3672
    MATCHED_VALUES: Final = "1.2.826.0.1.3344810.2.3"  # RFC 3876
    ASSERTION: Final = "1.3.6.1.1.12"  # RFC 4528
    PRE_READ: Final = "1.3.6.1.1.13.1"  # RFC 4527
    POST_READ: Final = "1.3.6.1.1.13.2"  # RFC 4527
    SYNC_REQUEST: Final = "1.3.6.1.4.1.4203.1.9.1.1"  # RFC 4533 §2.2
    SYNC_STATE: Final = "1.3.6.1.4.1.4203.1.9.1.2"  # RFC 4533 §2.3
    SYNC_DONE: Final = "1.3.6.1.4.1.4203.1.9.1.3"  # RFC 4533 §2.4
    DONT_USE_COPY: Final = "1.3.6.1.1.22"  # RFC 6171
    DOMAIN_SCOPE: Final = "1.2.840.113556.1.4.1339"  # Active Directory: no referrals to other domains
    SESSION_TRACKING: Final = "1.3.6.1.4.1.21008.108.63.1"  # draft-wahl-ldap-session-03
    AUTHORIZATION_IDENTITY_REQUEST: Final = "2.16.840.1.113730.3.4.16"  # RFC 3829
    AUTHORIZATION_IDENTITY_RESPONSE: Final = "2.16.840.1.113730.3.4.15"  # RFC 3829
    PASSWORD_POLICY: Final = "1.3.6.1.4.1.42.2.27.8.5.1"  # draft-behera-ldap-password-policy  # noqa: S105 (an OID)


class Feature:
    """Values of supportedFeatures, RFC 4512 §5.1."""

    ALL_OPERATIONAL_ATTRIBUTES: Final = "1.3.6.1.4.1.4203.1.5.1"  # RFC 3673: attribute selector "+"
    OBJECT_CLASS_ATTRIBUTES: Final = "1.3.6.1.4.1.4203.1.5.2"  # RFC 4529: attribute selector "@class"
    TRUE_FALSE_FILTERS: Final = "1.3.6.1.4.1.4203.1.5.3"  # RFC 4526: (&) and (|)
    MODIFY_INCREMENT: Final = "1.3.6.1.1.14"  # RFC 4525


class MatchingRule:
    """Matching rules that extensible filters may name: (OID, short name), RFC 4517 §4.2 unless said."""

    CASE_IGNORE: Final = ("2.5.13.2", "caseignorematch")
    CASE_IGNORE_ORDERING: Final = ("2.5.13.3", "caseignoreorderingmatch")
    CASE_IGNORE_SUBSTRINGS: Final = ("2.5.13.4", "caseignoresubstringsmatch")
    CASE_EXACT: Final = ("2.5.13.5", "caseexactmatch")
    CASE_EXACT_ORDERING: Final = ("2.5.13.6", "caseexactorderingmatch")
    CASE_EXACT_SUBSTRINGS: Final = ("2.5.13.7", "caseexactsubstringsmatch")
    DISTINGUISHED_NAME: Final = ("2.5.13.1", "distinguishednamematch")
    OBJECT_IDENTIFIER: Final = ("2.5.13.0", "objectidentifiermatch")
    NUMERIC_STRING: Final = ("2.5.13.8", "numericstringmatch")
    NUMERIC_STRING_ORDERING: Final = ("2.5.13.9", "numericstringorderingmatch")
    BOOLEAN: Final = ("2.5.13.13", "booleanmatch")
    INTEGER: Final = ("2.5.13.14", "integermatch")
    INTEGER_ORDERING: Final = ("2.5.13.15", "integerorderingmatch")
    OCTET_STRING: Final = ("2.5.13.17", "octetstringmatch")
    OCTET_STRING_ORDERING: Final = ("2.5.13.18", "octetstringorderingmatch")
    TELEPHONE_NUMBER: Final = ("2.5.13.20", "telephonenumbermatch")
    GENERALIZED_TIME: Final = ("2.5.13.27", "generalizedtimematch")
    GENERALIZED_TIME_ORDERING: Final = ("2.5.13.28", "generalizedtimeorderingmatch")
    CASE_EXACT_IA5: Final = ("1.3.6.1.4.1.1466.109.114.1", "caseexactia5match")
    CASE_IGNORE_IA5: Final = ("1.3.6.1.4.1.1466.109.114.2", "caseignoreia5match")
    UUID: Final = ("1.3.6.1.1.16.2", "uuidmatch")  # RFC 4530 §2.2
    BIT_AND: Final = ("1.2.840.113556.1.4.803", "")  # Active Directory: all bits set
    BIT_OR: Final = ("1.2.840.113556.1.4.804", "")  # Active Directory: any bit set
    IN_CHAIN: Final = ("1.2.840.113556.1.4.1941", "")  # Active Directory: transitive DN match


ALL_USER_ATTRIBUTES: Final = b"*"  # RFC 4511 §4.5.1.8
ALL_OPERATIONAL_ATTRIBUTES: Final = b"+"  # RFC 3673
NO_ATTRIBUTES: Final = b"1.1"  # RFC 4511 §4.5.1.8

ATTRIBUTE_TYPES: Final[dict[str, str]] = {
    # RFC 4514 §3 (the names every implementation recognises), RFC 4519 §2: OID or long name → short name
    "2.5.4.3": "cn",
    "commonname": "cn",
    "2.5.4.7": "l",
    "localityname": "l",
    "2.5.4.8": "st",
    "stateorprovincename": "st",
    "2.5.4.10": "o",
    "organizationname": "o",
    "2.5.4.11": "ou",
    "organizationalunitname": "ou",
    "2.5.4.6": "c",
    "countryname": "c",
    "2.5.4.9": "street",
    "streetaddress": "street",
    "0.9.2342.19200300.100.1.25": "dc",
    "domaincomponent": "dc",
    "0.9.2342.19200300.100.1.1": "uid",
    "userid": "uid",
    "2.5.4.4": "sn",
    "surname": "sn",
    "2.5.4.5": "serialnumber",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.41": "name",
    "2.5.4.42": "givenname",
    "gn": "givenname",
    "0.9.2342.19200300.100.1.3": "mail",
    "rfc822mailbox": "mail",
    "1.2.840.113549.1.9.1": "emailaddress",
    "email": "emailaddress",
}
"""Attribute types in DNs: lower-case OID or alias → the lower-case short name that stands for it in comparisons."""
