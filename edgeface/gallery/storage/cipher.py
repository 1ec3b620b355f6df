"""Encryption at rest: what a gallery does to a value before it reaches the disk.

AES-256-GCM (NIST SP 800-38D) with a fresh 96-bit nonce per value. Table, column, row and person are
associated data, so that a value cannot be passed off as another column's, row's or person's. Names
are found again through a keyed hash (HMAC-SHA256). Ids, times, qualities and counts stay readable.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from pathlib import Path
from typing import Any, Protocol

from edgeface.errors import GalleryError

KEY_VARIABLE = "EDGEFACE_GALLERY_KEY"  # 32 bytes as hex or base64
KEY_FILE_VARIABLE = "EDGEFACE_GALLERY_KEY_FILE"  # a file that holds the same
KEY_BYTES, NONCE_BYTES = 32, 12


class Cipher(Protocol):
    """How values are written: `name` identifies the method in the gallery's settings, `secret`
    whether it hides them. `column` is `table.column`, `owner` the ids a value belongs to."""

    name: str
    secret: bool

    def seal(self, value: bytes, column: str, owner: str = "") -> bytes | str: ...
    def unseal(self, value: Any, column: str, owner: str = "") -> bytes: ...
    def digest(self, name: str) -> str: ...


class Plain:
    """No encryption: values are written as they are."""

    name = "none"
    secret = False

    def seal(self, value: bytes, column: str, owner: str = "") -> bytes | str:
        """What is written for `value`."""
        return value

    def unseal(self, value: Any, column: str, owner: str = "") -> bytes:
        """The value again; GalleryError where damage has made it something else."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise GalleryError(f"a value of {column} is damaged: restore a backup")
        return bytes(value)

    def digest(self, name: str) -> str:
        """What a person is looked up by."""
        return name


class AesGcm:
    """AES-256-GCM under one 32-byte `key`; needs the extra `edgeface[crypto]`."""

    name = "aes-256-gcm-rows"
    secret = True

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise GalleryError(f"a gallery key has {KEY_BYTES} bytes, this one {len(key)}")
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise GalleryError(
                "an encrypted gallery needs cryptography: pip install 'edgeface[crypto]'"
            ) from error
        # Two keys from one, so that the hash of a name says nothing about the cipher's key.
        self._aead = AESGCM(hmac.digest(key, b"edgeface values", hashlib.sha256))
        self._names = hmac.digest(key, b"edgeface names", hashlib.sha256)

    def seal(self, value: bytes, column: str, owner: str = "") -> bytes:
        """Nonce, ciphertext and tag of `value`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + bytes(self._aead.encrypt(nonce, value, self._bound(column, owner)))

    def unseal(self, value: Any, column: str, owner: str = "") -> bytes:
        """The value again; GalleryError when the key is another, or when the bytes were changed or
        belong elsewhere."""
        from cryptography.exceptions import InvalidTag

        try:
            nonce, sealed = value[:NONCE_BYTES], value[NONCE_BYTES:]
            return bytes(self._aead.decrypt(nonce, sealed, self._bound(column, owner)))
        except (InvalidTag, ValueError, TypeError) as error:
            raise GalleryError(
                f"the gallery key does not open this value ({column}): give the key the gallery "
                "was made with"
            ) from error

    def digest(self, name: str) -> str:
        """What a person is looked up by."""
        return hmac.new(self._names, name.encode(), hashlib.sha256).hexdigest()

    def _bound(self, column: str, owner: str) -> bytes:
        return f"{column}|{owner}".encode()


class AesGcmOfColumns(AesGcm):
    """What galleries were encrypted with before values were bound to their rows; only to be read,
    see `recode`."""

    name = "aes-256-gcm"

    def _bound(self, column: str, owner: str) -> bytes:
        return column.encode()


def read_key() -> bytes | None:
    """The key named by the environment, None if there is none; GalleryError if unreadable."""
    text = os.environ.get(KEY_VARIABLE)
    origin = KEY_VARIABLE
    if text is None:
        file = os.environ.get(KEY_FILE_VARIABLE)
        if file is None:
            return None
        origin = file
        try:
            text = Path(file).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise GalleryError(f"the key file {file} cannot be read: {error}") from error
    return parse_key(text, origin)


def parse_key(text: str, origin: str) -> bytes:
    """32 bytes from 64 hex digits or 44 characters of base64."""
    text = text.strip()
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise GalleryError(
            f"{origin} does not hold a key: 32 random bytes as hex or base64 are expected"
        )
    return key
