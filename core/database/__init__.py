"""The embedded core's storage: one SQLite file, one connection, the only place with SQL.

``store.py`` reads and writes any record of :mod:`core.models` (``get find first count save delete transaction
on_change``); ``directory.py`` adds users, groups, permissions, tokens, sessions; ``objects.py`` adds flows, bindings,
outposts with their accounts, brands, devices, reputation, events and what blueprints own; ``schema.py`` holds the
migrations. Use :class:`Database`.
"""

from core.database.directory import merge, new_token_key
from core.database.objects import MODEL_NAMES, OUTPOST_CONFIG, Database, model_name, record_key
from core.database.store import CREATED, DELETED, FILE_NAME, UPDATED, Change

__all__ = [
    "CREATED", "DELETED", "FILE_NAME", "MODEL_NAMES", "OUTPOST_CONFIG", "UPDATED", "Change", "Database", "merge",
    "model_name", "new_token_key", "record_key",
]  # fmt: skip
