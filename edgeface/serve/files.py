"""What a service keeps on the disk, as one archive."""

from __future__ import annotations

from collections.abc import Mapping
from glob import escape
from pathlib import Path

from edgeface.backup import Manifest, back_up
from edgeface.serve.config import beside, place
from edgeface.sightings.store import SUFFIX

# Behind the name of the gallery (`ServiceSettings.beside`): cameras added in the page, what was
# judged, the token, and how far each wire came.
OWN = (".cameras.json", ".outcomes.json", ".token", ".mqtt", ".frigate", ".webhook-*")


def back_up_service(
    archive: Path, settings: Path | None, environment: Mapping[str, str], gallery: str | None
) -> Manifest:
    """`back_up` everything that the service with these settings keeps, while it runs or not.

    Files that the settings name, such as those with tokens, are left out; so is the gallery's key.

    Raises:
        ArgumentError: no gallery is named, or it is on a server; see also `load`.
        EdgefaceError: see `back_up`.
    """
    people, data = place(settings, environment, gallery)
    stem = beside(people, data)
    own = [path for end in OWN for path in sorted(stem.parent.glob(f"{escape(stem.name)}{end}"))]
    log = Path(f"{stem}{SUFFIX}")
    return back_up(
        archive, people, sightings=log if log.exists() else None, settings=settings, own=own
    )
