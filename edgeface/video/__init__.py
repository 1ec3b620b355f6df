"""Frames from a camera, a file, a stream or a folder of pictures."""
