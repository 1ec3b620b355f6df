"""Save the middle frame of a video: python examples/still.py IN OUT"""

import sys

import cv2


def main(source: str, target: str) -> int:
    capture = cv2.VideoCapture(source)
    middle = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // 2
    image = None
    for _ in range(middle + 1):
        ok, read = capture.read()
        image = read if ok else image
    if image is None or not cv2.imwrite(target, image):
        print(f"still: {source} has no frame, or {target} cannot be written", file=sys.stderr)
        return 1
    print(f"overlay picture: {target}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
