"""What can go wrong, one class per thing a caller may want to catch."""


class EdgefaceError(Exception):
    """Base of every error edgeface raises on bad input or a bad environment."""


class ImageError(EdgefaceError):
    """An image cannot be read or has the wrong shape or type."""


class SourceError(EdgefaceError):
    """A video source cannot be opened or stopped delivering."""


class ModelError(EdgefaceError):
    """A model file or its card is missing, damaged or does not fit its use."""


class GalleryError(EdgefaceError):
    """A gallery is missing, damaged, locked, or was made with another model."""


class KernelError(EdgefaceError):
    """A scoring kernel was forced that this machine cannot run."""


class BankError(EdgefaceError):
    """A submodel bank file is damaged, of another version, or of another model."""


class CalibrationError(EdgefaceError):
    """A threshold cannot be derived from the given impostors."""
