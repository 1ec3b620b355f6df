"""Your own loop around edgeface: python examples/ten_lines.py VIDEO NAME PICTURE…"""

import sys

import cv2

import edgeface as ef

video, name, *pictures = sys.argv[1:]
with ef.Identifier.open("ten_lines.gallery") as app:
    app.enroll(name, pictures)
    capture = cv2.VideoCapture(video)
    index, (ok, image) = 0, capture.read()
    while ok:
        for event in app.step(ef.Frame(image, index / 25, index)):
            print(event.to_json())
        index, (ok, image) = index + 1, capture.read()
