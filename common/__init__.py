"""What all daemons share. Knows no wire protocol and no outpost.

- ``settings``   environment and files → one frozen ``Settings``
- ``records``    what the core's API says, decoded tolerantly
- ``api``        the core's REST lists and records
- ``cache``      the configuration that is served: fetched whole, checked, swapped whole
- ``link``       the WebSocket to the core: updates and session ends
- ``login``      credentials → flow → access check → ``Passed | Denied | Unavailable``
- ``daemon``     life cycle: start, refresh, health, drain, exit code
"""
