"""The daemons that stand in front of an identity core, one package per protocol, and their command line."""
