"""Who was there: a row per appearance of a person before a camera, and a log of all events.

The store is a file beside the gallery and belongs to it: sealed with its key, and without the
people that it forgot.
"""

from edgeface.sightings.people import Change, People
from edgeface.sightings.recorder import Recorder
from edgeface.sightings.records import Appearance, Expiry, Page
from edgeface.sightings.store import Sightings

__all__ = ["Appearance", "Change", "Expiry", "Page", "People", "Recorder", "Sightings"]
