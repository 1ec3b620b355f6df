"""A folder of pictures in, people out; new pictures join later, and what people say is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgeface.cluster import hand
from edgeface.cluster.changes import Change
from edgeface.cluster.model import EdgeModel
from edgeface.cluster.update import Pile
from edgeface.describe import Appraiser, FaceEmbedder
from edgeface.errors import DataError, OutputError
from edgeface.listing import pictures_in
from edgeface.piles import folders
from edgeface.piles.fitness import fitness, reason
from edgeface.piles.looking import Detector, Looker, Progress
from edgeface.piles.report import Row, printable, write_csv, write_html, write_json
from edgeface.piles.store import Store
from edgeface.recognisability import NAMED
from edgeface.types import Array

PILE, STORE, JOURNAL, FOLDERS = "pile.npz", "faces.sqlite", "journal.jsonl", "people"
_MODEL, _ROOT, _EDGES = "model", "root", "edge-model"  # settings of the store


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """What became of a folder: the faces as `rows`, their `embeddings` (n, d) and `qualities` (n,),
    what `changes` this run made, the pictures that could not be read with the reason, and how many
    files of other picture formats were `passed` over, by suffix."""

    rows: tuple[Row, ...]
    embeddings: Array
    qualities: Array
    changes: tuple[Change, ...]
    unreadable: tuple[tuple[Path, str], ...] = ()
    passed: tuple[tuple[str, int], ...] = ()

    @property
    def unfit(self) -> int:
        """How many faces cannot be judged."""
        return sum(row.person < 0 for row in self.rows)


def cluster_folder(
    folder: str | Path,
    output: str | Path,
    *,
    detector: Detector,
    embedder: FaceEmbedder,
    update: bool = False,
    into: Literal["link", "copy"] | None = None,
    collages: bool = False,
    model: str = "",
    edge_model: EdgeModel | None = None,
    progress: Progress = lambda done, total: None,
) -> Sorted:
    """Find the people in the pictures below `folder` and write the result below `output`.

    Writes people.json, people.csv, report.html and journal.jsonl, and, to go on later, pile.npz and
    faces.sqlite. All are readable by their owner alone. A run that was cut off goes on where it
    was. Hidden folders, thumbnails, trash and earlier results are not looked at.

    Faces of one picture are different people, equal pictures show the same ones, and faces that
    nobody could recognise are nobody.

    Args:
        folder, output: where the pictures are, and where the result goes.
        detector, embedder: BGR image to faces, an `Embedder`.
        update: pictures that came since join, faces of pictures that are gone or changed leave;
            people keep their ids and names. The names of renamed folders become people's names.
        into: also make a folder per person with links to (or copies of) the pictures.
        collages: one picture may show a person several times.
        model: digest of the embedder; faces embedded with another one are not compared.
        edge_model: says which faces are linked, by default the shipped one; a result keeps to that
            which it was made with.
        progress: called with how many pictures are done and how many there are.

    Raises:
        DataError: no pictures, no faces, an `update` without a pile, a damaged one, one of another
            embedder, or a start anew that would lose names given by hand.
        OutputError: the result cannot be written.
    """
    folder, output = Path(folder).resolve(), Path(output).resolve()
    listing = pictures_in(folder, marker=STORE)
    files = [f for f in listing.pictures if not f.is_relative_to(output)]
    if update and not (output / STORE).exists():
        raise DataError(f"{output / STORE} does not exist; cluster without an update first")
    _make(output)
    with Store(output / STORE) as store:
        pile = _begin(store, output, files, update=update, model=model)
        _keep_edges(store, output, edge_model, update=update)
        if store.setting(_ROOT) is None:
            store.set(_ROOT, os.fsencode(folder))
        looker = Looker(store, detector, Appraiser(embedder))
        unreadable = looker.look(files, progress)
        looker.forget_missing(folder, files)
        store.commit()
        changes: list[Change] = []
        if pile is not None:
            pile, changes = _by_hand(store, pile, output)
        pile, more = _joined(store, pile, collages=collages)
        if pile is None:
            raise DataError(f"{folder}: no face in {len(files)} pictures that can be judged")
        result = write(output, store, pile, [*changes, *more], append=update)
        if into is not None:
            place(output, store, result, how=into)
    return Sorted(
        result.rows,
        result.embeddings,
        result.qualities,
        result.changes,
        tuple(unreadable),
        tuple(listing.passed.items()),
    )


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be made: {error.strerror}") from error


def _begin(
    store: Store, output: Path, files: Sequence[Path], *, update: bool, model: str
) -> Pile | None:
    """The pile to go on with; None for a start anew, which keeps what the same model has seen."""
    kept = store.setting(_MODEL)
    if kept is not None and kept.decode() != model:
        if update:
            raise DataError(f"{output} was made with another embedder; use that, or cluster anew")
        store.forget_everything()
    store.set(_MODEL, model.encode())
    if update:
        # Without a pile the first run was cut off before it made one.
        return Pile.load(output / PILE) if (output / PILE).exists() else None
    if store.names():
        raise DataError(
            f"{output} holds names given by hand, which a start anew would lose; update it, or "
            "choose another folder for the result"
        )
    store.drop_people(store.folders())
    there = set(files)
    for picture in store.pictures():
        if picture.path not in there:
            store.drop(picture.id)
    return None


def _keep_edges(store: Store, output: Path, model: EdgeModel | None, *, update: bool) -> None:
    """Note the edge model of a start anew; refuse another one for what there is."""
    given = b"" if model is None else model.text().encode()
    if not update:
        store.set(_EDGES, given)
    elif model is not None and given != store.setting(_EDGES):
        raise DataError(f"{output} was made with another edge model; use that, or cluster anew")


def _edges(store: Store) -> EdgeModel | None:
    """The edge model that the store's people were made with; None for the shipped one."""
    kept = store.setting(_EDGES)
    return EdgeModel.parse(kept.decode(), "the edge model of the result") if kept else None


def _by_hand(store: Store, pile: Pile, output: Path) -> tuple[Pile, list[Change]]:
    """Take in what was done to the folders of people."""
    done = folders.read_back(output / FOLDERS, store)
    changes: list[Change] = []
    for into, other in done.merges:
        if {into, other} <= set(pile.people.tolist()):
            pile, change = hand.merge(pile, into, other)
            store.drop_people([other])
            changes.append(change)
    for person, name in done.names.items():
        if (pile.people == person).any():
            pile, change = hand.name(pile, person, name)
            store.name(person, name)
            changes.append(change)
    return pile, changes


def _joined(store: Store, pile: Pile | None, *, collages: bool) -> tuple[Pile | None, list[Change]]:
    """The pile with exactly the faces that are in the store and can be judged."""
    faces = {str(f.id): f for f in store.faces() if not f.copy}
    fit = {name for name, face in faces.items() if face.recognisability >= NAMED}
    changes: list[Change] = []
    if pile is not None:
        pile, changes = pile.without(set(pile.names) - fit)
    there = set() if pile is None else set(pile.names)
    fresh = [name for name in faces if name in fit and name not in there]
    if not fresh:
        return pile, changes
    rows = np.stack([faces[name].embedding for name in fresh])
    trust = [fitness(faces[name].recognisability) for name in fresh]
    pictures = None if collages else [faces[name].picture for name in fresh]
    model = _edges(store)
    if pile is None or not len(pile.names):
        first = 0 if pile is None else pile.next_id
        pile = Pile.of(rows, fresh, pictures=pictures, fitness=trust, first_id=first, model=model)
        changes += [Change("created", p) for p in np.unique(pile.people).tolist() if p >= 0]
    else:
        pile, more = pile.add(rows, fresh, pictures=pictures, fitness=trust, model=model)
        changes += more
    return pile, changes


def rows_of(store: Store, pile: Pile) -> Sorted:
    """The faces of a store with their people."""
    root = Path(os.fsdecode(store.setting(_ROOT) or b"/"))
    kept, names = list(store.faces()), store.names()
    clusters = pile.clusters(model=_edges(store))
    exemplars = set(clusters.exemplars.tolist())
    place_of = {name: i for i, name in enumerate(pile.names)}
    rows = []
    for face in kept:
        where = place_of.get(str(face.id))
        person = -1 if where is None else int(pile.people[where])
        rows.append(
            Row(
                face.id,
                f"{_shown(face.path, root)}#{face.number}",
                face.path,
                face.box,
                person,
                0.0 if where is None else float(clusters.certainty[where]),
                where in exemplars and not face.copy,
                names.get(person, "") if person >= 0 else "",
                reason(face.recognisability, face.flaw),
                face.recognisability,
            )
        )
    embeddings = np.stack([f.embedding for f in kept])
    qualities = np.array([f.quality for f in kept], np.float32)
    return Sorted(tuple(rows), embeddings, qualities, ())


def write(
    output: Path, store: Store, pile: Pile, changes: Sequence[Change], *, append: bool
) -> Sorted:
    """Save the pile and everything that is made from it."""
    result = rows_of(store, pile)
    pile.save(output / PILE)
    shown = {str(row.number): printable(row.name) for row in result.rows}
    _journal(output / JOURNAL, changes, shown, append=append)
    write_json(output / "people.json", result.rows)
    write_csv(output / "people.csv", result.rows)
    write_html(
        output / "report.html",
        result.rows,
        crop=lambda row: store.crop(row.number),
        embeddings=result.embeddings,
    )
    return Sorted(result.rows, result.embeddings, result.qualities, tuple(changes))


def _journal(path: Path, changes: Sequence[Change], shown: dict[str, str], *, append: bool) -> None:
    try:
        flags = os.O_CREAT | os.O_WRONLY | (os.O_APPEND if append else os.O_TRUNC)
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as journal:
            journal.writelines(change.to_json(shown) + "\n" for change in changes)
            journal.flush()
            os.fsync(journal.fileno())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def place(output: Path, store: Store, result: Sorted, *, how: Literal["link", "copy"]) -> None:
    """Bring the folders of people up to date."""
    pictures: dict[int, dict[Path, int]] = {}
    ids = {face.id: face.picture for face in store.faces() if not face.copy}
    copies = {face.path for face in store.faces() if face.copy}
    for row in result.rows:
        if row.person >= 0 and row.file not in copies:
            pictures.setdefault(row.person, {})[row.file] = ids[row.number]
    theirs = {person: [(i, p) for p, i in files.items()] for person, files in pictures.items()}
    folders.place(output / FOLDERS, theirs, store, how=how)


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
