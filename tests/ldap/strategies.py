"""Hypothesis strategies for filters, messages and names."""

from __future__ import annotations

from hypothesis import strategies as st

from outposts.ldap import filters as f
from outposts.ldap import messages as m
from outposts.ldap.rfc import MAX_INT

values = st.binary(max_size=20)
attributes = st.sampled_from(["cn", "objectclass", "cn;lang-de", "2.5.4.3", "my_attribute", "größe", "a-b"])
rules = st.sampled_from(["2.5.13.2", "caseexactmatch", "1.2.840.113556.1.4.803"])
pieces = st.binary(min_size=1, max_size=8)


def _extensible(draw_rule: str | None, attribute: str | None, value: bytes, dn: bool) -> f.Filter:
    return f.Extensible(draw_rule or (None if attribute else "2.5.13.2"), attribute, value, dn)


substrings = st.tuples(
    attributes, st.none() | pieces, st.lists(pieces, max_size=3).map(tuple), st.none() | pieces
).filter(lambda parts: parts[1] is not None or parts[2] or parts[3] is not None)

items: st.SearchStrategy[f.Filter] = st.one_of(
    st.builds(f.Equality, attributes, values),
    st.builds(f.GreaterOrEqual, attributes, values),
    st.builds(f.LessOrEqual, attributes, values),
    st.builds(f.Approx, attributes, values),
    st.builds(f.Present, attributes),
    substrings.map(lambda parts: f.Substrings(*parts)),
    st.builds(_extensible, st.none() | rules, st.none() | attributes, values, st.booleans()),
)
trees: st.SearchStrategy[f.Filter] = st.recursive(
    items,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple).map(f.And),
        st.lists(inner, max_size=4).map(tuple).map(f.Or),
        inner.map(f.Not),
    ),
    max_leaves=12,
)

ids = st.integers(1, MAX_INT)
text = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
oids = st.sampled_from(["1.2.3", "1.2.840.113556.1.4.319", "1.3.6.1.4.1.1466.20037"])
controls = st.lists(st.builds(m.Control, oids, st.booleans(), st.none() | values), max_size=3).map(tuple)
attribute_lists = st.lists(st.builds(m.Attribute, values, st.lists(values, max_size=3).map(tuple)), max_size=3).map(
    tuple
)
authentications = st.one_of(
    st.builds(m.Simple, values),
    st.builds(m.Sasl, st.sampled_from(["PLAIN", "EXTERNAL", ""]), st.none() | values),
)

requests: st.SearchStrategy[m.Request] = st.one_of(
    st.builds(m.BindRequest, ids, st.integers(1, 127), values, authentications, controls),
    st.builds(m.UnbindRequest, ids, controls),
    st.builds(
        m.SearchRequest,
        ids,
        values,
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, MAX_INT),
        st.integers(0, MAX_INT),
        st.booleans(),
        trees,
        st.lists(values, max_size=4).map(tuple),
        controls,
    ),
    st.builds(
        m.ModifyRequest,
        ids,
        values,
        st.lists(
            st.builds(
                m.Change, st.integers(0, 3), st.builds(m.Attribute, values, st.lists(values, max_size=2).map(tuple))
            ),
            max_size=3,
        ).map(tuple),
        controls,
    ),
    st.builds(m.AddRequest, ids, values, attribute_lists, controls),
    st.builds(m.DeleteRequest, ids, values, controls),
    st.builds(m.ModifyDNRequest, ids, values, values, st.booleans(), st.none() | values, controls),
    st.builds(m.CompareRequest, ids, values, values, values, controls),
    st.builds(m.AbandonRequest, ids, st.integers(0, MAX_INT), controls),
    st.builds(m.ExtendedRequest, ids, oids, st.none() | values, controls),
)

codes = st.integers(0, 5000)
uris = st.lists(st.binary(min_size=1, max_size=10), max_size=2).map(tuple)
responses: st.SearchStrategy[m.Response] = st.one_of(
    st.builds(
        m.Result, ids, st.sampled_from([0x65, 0x67, 0x69, 0x6B, 0x6D, 0x6F]), codes, values, text, uris, controls
    ),
    st.builds(m.BindResponse, ids, codes, values, text, uris, st.none() | values, controls),
    st.builds(m.SearchEntry, ids, values, attribute_lists, controls),
    st.builds(m.SearchReference, ids, uris, controls),
    st.builds(m.ExtendedResponse, ids, codes, values, text, uris, st.none() | oids, st.none() | values, controls),
    st.builds(m.IntermediateResponse, ids, st.none() | oids, st.none() | values, controls),
)
