"""LDAP outpost."""
