"""Make the sample clip and the enrolment picture from two public-domain portraits.

Eileen Collins, NASA (shipped with scikit-image) and Grace Hopper, US Navy (shipped with
matplotlib). It needs `pip install scikit-image matplotlib` and the program ffmpeg; its outputs are
committed, so the demo needs none of them.

    python examples/make_sample.py examples/sample
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, FPS, SECONDS = 640, 360, 25, 8


def portraits() -> tuple[np.ndarray, np.ndarray]:
    """The two portraits as (H, W, 3) uint8 BGR, cut to head and shoulders."""
    from matplotlib import cbook
    from skimage import data

    collins = np.ascontiguousarray(data.astronaut()[..., ::-1])[0:320, 90:370]
    hopper = cv2.imread(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    return collins, hopper[40:520, 60:460]


def place(
    canvas: np.ndarray, picture: np.ndarray, x: float, y: float, height: float, turn: float
) -> np.ndarray:
    """Warp `picture` onto `canvas`: centre (x, y), `height` px tall, turned by `turn` degrees."""
    scale = height / picture.shape[0]
    middle = (picture.shape[1] / 2, picture.shape[0] / 2)
    matrix = cv2.getRotationMatrix2D(middle, turn, scale)
    matrix[:, 2] += np.array([x, y]) - middle
    size = (canvas.shape[1], canvas.shape[0])
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    alpha = cv2.warpAffine(np.full(picture.shape[:2], 255, np.uint8), matrix, size)
    warped = cv2.warpAffine(picture, matrix, size, flags=flags)
    mask = (cv2.GaussianBlur(alpha, (5, 5), 0) / 255.0)[..., None]
    return (canvas * (1 - mask) + warped * mask).astype(np.uint8)


def frame(t: float, collins: np.ndarray, hopper: np.ndarray) -> np.ndarray:
    """The picture at second `t`: Collins stays, Hopper enters at 1.5 s and leaves after 5.5 s."""
    ramp = np.linspace(70, 120, WIDTH)[None, :, None]
    canvas = np.broadcast_to(ramp, (HEIGHT, WIDTH, 3)).astype(np.uint8).copy()
    sway = math.sin(t * 1.3)
    canvas = place(canvas, collins, 190 + 40 * sway, 190, 300 + 40 * math.sin(t * 0.9), 5 * sway)
    entering = np.clip((t - 1.5) / 1.0, 0, 1)
    leaving = np.clip((t - 5.5) / 1.0, 0, 1)
    x = WIDTH + 160 - 330 * entering + 330 * leaving
    canvas = place(canvas, hopper, x, 200 + 8 * math.cos(t * 2), 290, -4 * math.sin(t))
    light = 1.0 + 0.15 * math.sin(t * 2.1)
    canvas = np.clip(canvas * light, 0, 255).astype(np.uint8)
    blur = 1 + 2 * int(2 * max(0.0, math.sin(t * 2.7)))
    return cv2.GaussianBlur(canvas, (blur, blur), 0)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    collins, hopper = portraits()
    # Enrolment shows the portrait mirrored and darker, so the demo does not match equal pixels.
    enrol = np.clip(collins[:, ::-1] * 0.85 - 5, 0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / "eileen.jpg"), enrol, [cv2.IMWRITE_JPEG_QUALITY, 88])
    encode = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "bgr24"]
    encode += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-", "-c:v", "libx264"]
    encode += ["-crf", "27", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    frames = (frame(index / FPS, collins, hopper) for index in range(FPS * SECONDS))
    video = b"".join(picture.tobytes() for picture in frames)
    subprocess.run([*encode, str(folder / "clip.mp4")], input=video, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/sample"))
