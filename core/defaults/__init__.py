"""Blueprints that come with the package, applied at every start in the order of their names; all only create."""
