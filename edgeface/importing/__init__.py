"""People of other programs, taken over from the pictures that those know them by."""

from edgeface.importing.compreface import compreface
from edgeface.importing.layouts import look
from edgeface.importing.records import Found, Layout, Picture
from edgeface.importing.taking import Taken, take

__all__ = ["Found", "Layout", "Picture", "Taken", "compreface", "look", "take"]
