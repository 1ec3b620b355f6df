"""What hnswlib has saved, read in half the time.

`hnswlib.Index.load_index` asks for its place in the file at every node, a million times; made of
arrays, as when it is unpickled, an index is copied at once. The file holds, as the machine writes
numbers: a header; for each node its neighbours of the lowest level, vector and label; then for each
node the length in bytes of its neighbours of the higher levels, 0 for most, and those.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import GalleryError
from edgeface.gallery.index.numbers import Ids

if TYPE_CHECKING:
    import hnswlib

Words = NDArray[np.uint32]
HEADER = np.dtype(
    [
        ("offset_level0", np.uintp),
        ("max_elements", np.uintp),
        ("cur_element_count", np.uintp),
        ("size_data_per_element", np.uintp),
        ("label_offset", np.uintp),
        ("offset_data", np.uintp),
        ("max_level", np.int32),
        ("enterpoint_node", np.uint32),
        ("max_M", np.uintp),
        ("max_M0", np.uintp),
        ("M", np.uintp),
        ("mult", np.float64),
        ("ef_construction", np.uintp),
    ]
)
LABEL = np.dtype(np.uintp)
SEED = 100  # hnswlib's own, for the levels of nodes to come
DELETED = 1 << 16  # in the first word of a node


def read(path: Path, size: int) -> tuple[hnswlib.Index, Ids]:
    """The index of vectors of `size` that hnswlib saved at `path`, and the labels of its nodes, of
    deleted ones as well. What it holds must be known to be what was saved: only its form is looked
    at. The file is mapped meanwhile, which counts as memory of this process but can be taken away.
    GalleryError when it is something else."""
    import hnswlib

    try:
        content = np.asarray(np.memmap(path, np.uint8, "r"))
        head = content[: HEADER.itemsize].view(HEADER)[0]
        nodes, width = int(head["cur_element_count"]), int(head["size_data_per_element"])
        end = HEADER.itemsize + nodes * width
        level0 = content[HEADER.itemsize : end].reshape(nodes, width)
        links = int(head["max_M"]) + 1  # how many there are, and the nodes
        levels, lists = _higher(content[end:].view(np.uint32), nodes, links)
        labels = level0[:, -LABEL.itemsize :].copy().view(LABEL)[:, 0]
        deleted = level0[:, :4].copy().view(np.uint32) & DELETED
        room = np.zeros(int(head["max_elements"]), np.int32)
        room[:nodes] = levels
    except (OSError, ValueError, IndexError, GalleryError) as error:
        raise _another(path, error) from error
    state = {name: head[name].item() for name in HEADER.names or ()} | {
        "ser_version": 1,
        "space": "ip",
        "dim": size,
        "index_inited": True,
        "ep_added": nodes > 0,
        "normalize": False,
        "num_threads": 1,
        "seed": SEED,
        "ef": 10,
        "has_deletions": bool(deleted.any()),
        "size_links_per_element": 4 * links,
        "allow_replace_deleted": True,
        "label_lookup_external": labels,
        "label_lookup_internal": np.arange(nodes, dtype=np.uint32),
        "element_levels": room,
        "data_level0": level0.view(np.int8),
        "link_lists": lists.view(np.int8),
    }
    try:
        return hnswlib.Index(params=state), labels.astype(np.int64)
    except RuntimeError as error:  # vectors of another size
        raise _another(path, error) from error


def _another(path: Path, error: Exception) -> GalleryError:
    return GalleryError(
        f"{path} is not an index of such vectors as hnswlib saves it ({error}): delete it, and the "
        "gallery makes it anew"
    )


def _higher(words: Words, nodes: int, each: int) -> tuple[NDArray[np.int32], Words]:
    """On how many higher levels each of `nodes` is, (nodes,), and the neighbours there, `each`
    words a level. GalleryError where `words` are something else."""
    filled = np.flatnonzero(words)
    lengths = words[filled].astype(np.int64) // 4  # where a length stands
    place, length, at = filled.data, lengths.data, 0
    found: list[int] = []
    while at < len(place):  # once for the sixteenth of the nodes that is on a higher level
        found.append(at)
        most = min(at + 1 + length[at], len(place))
        at = bisect_left(place, place[at] + 1 + length[at], at + 1, most)
    held = lengths[found]
    if np.any(held % each) or nodes + held.sum() != len(words):
        raise GalleryError("the lengths of its lists do not fit")
    levels = np.zeros(nodes, np.int32)
    levels[filled[found] - (np.cumsum(held) - held)] = held // each
    heads = np.arange(nodes)
    heads[1:] += np.cumsum(levels[:-1].astype(np.int64) * each)
    return levels, np.delete(words, heads)
