"""The tests mirror the tree: tests/ldap/test_wire.py tests outposts/ldap/wire.py. daemons.py starts real daemons,
fakes.py is a core that a test holds in its hand, factories.py makes users and groups, ldap_client.py speaks raw LDAP.
"""
