"""The clips of the pipeline bench and who is to be seen in them, looked up by eye."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

SAMPLE = Path(__file__).parents[1] / "examples" / "sample"
LIN, ALEX = "lin-manuel-miranda", "alex-lacamoire"
Box = Sequence[float]  # xyxy, scaled to a frame 640 wide
Who = Callable[[int, Box], str | None]


@dataclass(frozen=True, slots=True)
class Clip:
    """A video `file`, the `people` to enrol (NAME.png), `who` a box at a frame shows (None:
    somebody not enrolled), and in how many frames anybody enrolled is to be seen."""

    name: str
    file: Path
    people: tuple[Path, ...]
    who: Who | None = None


def hamilton(index: int, box: Box) -> str | None:
    """The singer stands at the right before the cut at frame 20 and is alone in the picture from
    frame 83 to 210; the pianist sits at the left before the cut and is seen in profile after it;
    everybody else is audience."""
    x = (box[0] + box[2]) / 2
    if index < 20:
        return LIN if x > 480 else ALEX if x < 120 else None
    if index < 83:
        return ALEX if x > 300 or box[2] - box[0] > 90 else None
    return LIN if index <= 210 else None


def collins(index: int, box: Box) -> str | None:
    """Eileen Collins sways at the left; Grace Hopper, not enrolled, never comes left of 400."""
    return "eileen" if (box[0] + box[2]) / 2 < 350 else None


def clips(shared: Path) -> list[Clip]:
    """The stage clip when the shared data is there, else the committed sample."""
    folder = shared / "data" / "video"
    if folder.is_dir():
        people = tuple(folder / "gallery_hamilton" / f"{name}.png" for name in (LIN, ALEX))
        return [Clip("hamilton", folder / "short_hamilton_clip.mp4", people, hamilton)]
    return [Clip("sample", SAMPLE / "clip.mp4", (SAMPLE / "eileen.jpg",), collins)]


def scaled(clip: Clip, width: int, folder: Path) -> Clip:
    """The same clip in another size, written into `folder` as MPEG-4 by OpenCV."""
    source = cv2.VideoCapture(str(clip.file))
    height = round(width * source.get(cv2.CAP_PROP_FRAME_HEIGHT) / source.get(3) / 2) * 2
    file = folder / f"{clip.name}-{width}x{height}.mp4"
    code, rate = cv2.VideoWriter.fourcc(*"mp4v"), source.get(cv2.CAP_PROP_FPS)
    target = cv2.VideoWriter(str(file), code, rate, (width, height))
    while True:
        ok, image = source.read()
        if not ok:
            break
        target.write(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC))
    target.release()
    return Clip(clip.name, file, clip.people, clip.who)


def judge(clip: Clip, seen: Sequence[Sequence[object]], width: int) -> tuple[int, int]:
    """How many of the names given are right, and how many wrong; `seen` holds rows of frame, four
    box corners in pixels of a frame `width` wide, name or None."""
    right = wrong = 0
    for index, *box, name in seen:
        if name is None or clip.who is None:
            continue
        corners = [float(c) * 640 / width for c in box]  # type: ignore[arg-type]
        if clip.who(int(index), corners) == name:  # type: ignore[call-overload]
            right += 1
        else:
            wrong += 1
    return right, wrong
