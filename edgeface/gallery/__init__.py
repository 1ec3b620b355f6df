"""The gallery: who is known, in one file that is the truth, with an index that is only a cache."""

from edgeface.gallery.audit import Finding, Flaw, audit
from edgeface.gallery.gallery import Gallery
from edgeface.gallery.growth import Growth, GrowthRules
from edgeface.gallery.journal import Entry
from edgeface.gallery.records import Faces, Person, Provenance, Sample
from edgeface.types import Kind

__all__ = [
    "Entry",
    "Faces",
    "Finding",
    "Flaw",
    "Gallery",
    "Growth",
    "GrowthRules",
    "Kind",
    "Person",
    "Provenance",
    "Sample",
    "audit",
]
