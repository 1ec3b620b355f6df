"""Your own loop around edgeface: python examples/ten_lines.py VIDEO NAME PICTURE…"""

import sys
import tempfile

import cv2

import edgeface as ef

video, name, *pictures = sys.argv[1:]
with ef.Identifier.open(tempfile.mkdtemp() + "/people.gallery") as app:
    app.enroll(name, pictures)
    capture, index = cv2.VideoCapture(video), 0
    while (read := capture.read())[0]:
        for event in app.step(ef.Frame(read[1], index / 25, index)):
            print(event.to_json())
        index += 1
