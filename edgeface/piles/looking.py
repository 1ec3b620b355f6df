"""Every picture of a folder is looked at once, and again when its content changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeface import images
from edgeface.describe import Appraiser, find
from edgeface.errors import DataError, ImageError
from edgeface.opencv import cv2
from edgeface.piles.store import Picture, Seen, Store
from edgeface.types import Array, Face, Image

Detector = Callable[[Image], list[Face]]
Progress = Callable[[int, int], None]

MARGIN = 0.25  # of the box's larger side, around a face on the report
CROP = 96  # pixels of the longer side of a face on the report


@dataclass(frozen=True, slots=True)
class Looker:
    """Finds, embeds and judges the faces of pictures, and keeps them in a `store`."""

    store: Store
    detector: Detector
    appraise: Appraiser

    def look(self, files: Sequence[Path], progress: Progress) -> list[tuple[Path, str]]:
        """Look at those of `files` that are new or have changed, and return the ones that cannot
        be read, with the reason. A copy of a picture, or one that was moved, is not looked at."""
        known = {p.path: p for p in self.store.pictures()}
        whole = [p for p in known.values() if p.same_as is None and not p.problem]
        equal = {p.digest: (p.id, p.path) for p in whole}
        unreadable = []
        for done, file in enumerate(files):
            progress(done, len(files))
            try:
                self._picture(file, known.get(file), equal)
            except OSError as error:
                unreadable.append((file, f"it cannot be read: {error.strerror}"))
            except ImageError as error:
                unreadable.append((file, str(error)))
            self.store.commit_now_and_then()
        progress(len(files), len(files))
        there = set(files)
        return unreadable + [(f, why) for f, why in self.store.problems() if f in there]

    def forget_missing(self, folder: Path, files: Sequence[Path]) -> None:
        """Forget pictures that are gone from `folder`, or from another one that is still there.

        Raises:
            DataError: nothing at all is left below `folder`, as when a disk is not mounted.
        """
        there = set(files)
        known = self.store.pictures()
        below = [p for p in known if p.path.is_relative_to(folder)]
        if below and not files:
            raise DataError(
                f"{folder}: none of the {len(below)} pictures that were there is left; mount the "
                "disk, or remove the result to start anew"
            )
        for picture in known:
            if picture.path in there or (os.path.lexists(picture.path) and picture not in below):
                continue
            if picture in below or picture.path.parent.is_dir():
                self.store.drop(picture.id)

    def _picture(
        self, file: Path, before: Picture | None, equal: dict[str, tuple[int, Path]]
    ) -> None:
        facts = file.stat()
        size, changed = facts.st_size, facts.st_mtime_ns
        # What could not be read is tried again: a decoder may have been installed since.
        known = before if before is not None and not before.problem else None
        if known is not None and (known.size, known.changed) == (size, changed):
            return
        if size > images.MAX_BYTES:
            images.read(file)  # says what is wrong with it
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if known is not None and known.digest == digest:
            self.store.touch(known.id, size, changed)
            return
        if before is not None and equal.get(before.digest, (0, file))[1] == file:
            equal.pop(before.digest, None)
        if digest in equal:
            original, path = equal[digest]
            if path.exists():
                self.store.add(file, size, changed, digest, (), same_as=original)
            else:
                self.store.move(original, file)
                equal[digest] = original, file
            return
        try:
            faces, problem = self._faces(images.read(data)), ""
        except ImageError as error:
            faces, problem = [], str(error)
        added = self.store.add(file, size, changed, digest, faces, problem=problem)
        if not problem:
            equal[digest] = added, file

    def _faces(self, image: Image) -> list[Seen]:
        seen = []
        for number, face in enumerate(self.appraise(image, find(self.detector, image))):
            assert face.embedding is not None
            seen.append(
                Seen(
                    number,
                    face.box,
                    face.quality,
                    face.embedding,
                    _crop(image, face.box),
                    face.recognisability,
                    face.flaw,
                )
            )
        return seen


def _crop(image: Image, box: Array) -> bytes:
    """The face with some of its surroundings, small, as JPEG."""
    x1, y1, x2, y2 = (float(v) for v in box)
    margin = MARGIN * max(x2 - x1, y2 - y1)
    top, left = max(0, int(y1 - margin)), max(0, int(x1 - margin))
    cut = image[top : max(top + 1, int(y2 + margin)), left : max(left + 1, int(x2 + margin))]
    if not cut.size:
        cut = np.zeros((1, 1, 3), np.uint8)
    size = CROP / max(cut.shape[:2])
    small = cv2.resize(cut, None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return bytes(data.tobytes())
