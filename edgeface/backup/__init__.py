"""Everything of a service in one archive, made while it runs, and put back elsewhere."""

from edgeface.backup.archive import Manifest, Part, Role, read_manifest
from edgeface.backup.copying import back_up
from edgeface.backup.restoring import restore

__all__ = ["Manifest", "Part", "Role", "back_up", "read_manifest", "restore"]
