"""Makes snapshots from the core's records, page by page."""

from __future__ import annotations

from outposts.ldap.building import ContentsBuilder
from outposts.ldap.directory import Snapshot


class SnapshotBuilder(ContentsBuilder):
    """``add_groups`` for all groups, then ``add_users`` page by page, then ``finish``. Good for a thread."""

    def finish(self) -> Snapshot:
        """The snapshot. The builder is used up."""
        return Snapshot(super().finish())
