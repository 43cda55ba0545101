"""The HTTP API: one file per group of objects. ``base`` holds what all share, ``routes`` lists everything.

A handler gets a :class:`core.api.base.Call` and returns an :class:`core.api.base.Answer`; it knows no web framework.
Errors are raised as classes of :mod:`core.errors` and become the API's shapes in ``core.server``.
"""
