"""Ours beside others on this machine: ``scripts/bench [ldap]``. Only ratios mean something; nothing asserts a time.

bench.py is the command, ldap_bench.py one protocol's measurements, load.py the load generator (a process of its own,
the same for both servers), slapd.py the peer.
"""
