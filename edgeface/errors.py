"""What can go wrong, one class per thing a caller may want to catch.

Every error that edgeface raises on purpose is one of these; a bare `ValueError` or `KeyError` from
it is a defect (`tests/test_errors.py` reads the code for them).
"""


class EdgefaceError(Exception):
    """Base of every error edgeface raises on bad input or a bad environment."""


class ArgumentError(EdgefaceError, ValueError):
    """An argument has the wrong shape, type or value. It is a `ValueError` as well."""


class ImageError(EdgefaceError):
    """An image cannot be read or has the wrong shape or type."""


class SourceError(EdgefaceError):
    """A video source cannot be opened or stopped delivering."""


class CameraError(SourceError):
    """A camera or a stream is not there, refuses, or went away and did not come back."""


class OutputError(EdgefaceError):
    """A result cannot be written or shown where it was asked for."""


class DataError(EdgefaceError):
    """Files or answers that are to be taken in, such as those to be clustered, are missing, damaged
    or of another kind."""


class ModelError(EdgefaceError):
    """A model file or its card is missing, damaged or does not fit its use."""


class GalleryError(EdgefaceError):
    """A gallery is missing, damaged, locked, or was made with another model."""


class DependencyError(EdgefaceError, ImportError):
    """A package that is needed is not installed."""


class KernelError(EdgefaceError):
    """A scoring kernel was forced that this machine cannot run."""


class BankError(EdgefaceError):
    """A submodel bank file is damaged, of another version, or of another model."""


class CalibrationError(EdgefaceError):
    """A threshold cannot be derived from the given impostors."""


class BackupError(EdgefaceError):
    """A backup is damaged or no backup, or it would take the place of something."""
