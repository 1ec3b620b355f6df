"""OpenVINO IR on the disk, written small and with the faster convolutions asked for.

The convolutions carry a preference for oneDNN's own AVX-512 implementation over the "brgconv" one
OpenVINO would take: that one works out an element's channel anew for every PReLU it applies, a
quarter of the whole time. The preference is OpenVINO's `PrimitivesPriority` attribute; a processor
without that implementation ignores it, and the results are the same to the bit.
"""

from __future__ import annotations

import re
from pathlib import Path

import openvino as ov

from edgeface.models import parts

PREFERENCE = "cpu:jit_avx512"
ATTRIBUTE = f'<attribute name="primitives_priority" version="0" value="{PREFERENCE}"/>'


def prefer(text: str) -> str:
    """The IR's XML with the preference on every convolution."""

    def marked(match: re.Match[str]) -> str:
        return re.sub(
            r"(<data [^>]*/>)", rf"\1<rt_info>{ATTRIBUTE}</rt_info>", match.group(0), count=1
        )

    return re.sub(
        r'<layer [^>]*type="(?:Group)?Convolution".*?</layer>', marked, text, flags=re.DOTALL
    )


def shortened(text: str) -> str:
    """The IR's XML without what reading it does not need: inner names, what the conversion noted
    about itself, shapes other than the inputs' (they are worked out anew), defaults, blanks."""
    text = re.sub(r"<rt_info>.*?</rt_info>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*\n\s*", "", text)
    inner = r'(<layer id="(\d+)") name="[^"]*"(?= type="(?!Parameter|Result))'
    text = re.sub(inner, r'\1 name="\2"', text)
    head, mark, body = text.partition("</layer>")
    body = re.sub(r"(?:<dim>-?\d+</dim>)+", "", body)
    body = re.sub(r"<port ([^>]*?)></port>", r"<port \1/>", body)
    return head + mark + body.replace(' auto_broadcast="numpy"', "")


def save(model: ov.Model, path: Path, *, preferred: bool, half: bool) -> None:
    """Write `path` (.xml) and the .bin beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, str(path), compress_to_fp16=half)
    text = shortened(path.read_text())
    path.write_text(prefer(text) if preferred else text)


def size_of(path: Path) -> int:
    """Bytes of a model file, with its .bin for an .xml."""
    return sum(file.stat().st_size for file in parts(path))
