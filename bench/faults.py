"""What a gallery loses when its process, its disk or its luck runs out: nothing.

A worker process changes a gallery and says each change before (`try`) and after (`ack`) making it.
It is killed with SIGKILL at a random moment; the file must then hold exactly the acknowledged
changes, or those and the whole of the one under way. The same bookkeeping checks a disk that fills
up and several processes with several threads at once.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery

SIZE, MODEL = 64, "faults"
Operation = list[Any]


def face(seed: int) -> np.ndarray:
    """One unit embedding that its seed brings back."""
    row = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    return row / np.linalg.norm(row)


@dataclass
class Book:
    """What a gallery should hold: names and the seeds of their faces."""

    people: dict[str, list[int]] = field(default_factory=dict)

    def apply(self, operation: Operation) -> None:
        verb, *args = operation
        if verb == "enroll":
            name, seeds = args
            self.people.setdefault(name, []).extend(seeds)
        elif verb == "merge":
            self.people[args[0]].extend(self.people.pop(args[1]))
        elif verb == "rename":
            self.people[args[1]] = self.people.pop(args[0])
        elif verb == "forget":
            del self.people[args[0]]

    def after(self, operation: Operation) -> Book:
        book = Book({name: list(seeds) for name, seeds in self.people.items()})
        book.apply(operation)
        return book

    def content(self) -> dict[str, list[bytes]]:
        """The embeddings by name, in the order of their bytes."""
        return {
            name: sorted(face(seed).tobytes() for seed in seeds)
            for name, seeds in self.people.items()
        }


def content(path: Path) -> dict[str, list[bytes]]:
    """What the gallery at `path` holds, in the form of `Book.content`, searched as well as read."""
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        people = gallery.people()
        held = {p.name: [s.embedding for s in gallery.samples(p.name)] for p in people}
        if len(gallery) != sum(map(len, held.values())):
            raise AssertionError("the index does not hold what the rows hold")
        if held:
            probes = np.stack([rows[0] for rows in held.values()])
            for name, found in zip(held, gallery.search_many(probes, 1), strict=True):
                if found[0].name != name:
                    raise AssertionError(f"{name} is not found by their own face")
        return {name: sorted(row.tobytes() for row in rows) for name, rows in held.items()}


def perform(gallery: Gallery, operation: Operation) -> None:
    """Make one change."""
    verb, *args = operation
    if verb == "enroll":
        gallery.enroll(args[0], np.stack([face(seed) for seed in args[1]]))
    else:
        getattr(gallery, verb)(*args)


def choose(book: Book, rng: random.Random, tag: str) -> Operation:
    """A random change that `book` allows; names begin with `tag`."""
    names = [n for n in book.people if n.startswith(tag)]
    verb = rng.choices(["enroll", "merge", "rename", "forget", "compact"], [60, 12, 12, 11, 5])[0]
    if verb == "compact":
        return [verb]
    if verb == "enroll" or len(names) < 2:
        old = names and rng.random() < 0.3
        name = rng.choice(names) if old else f"{tag}{rng.getrandbits(40):x}"
        return ["enroll", name, [rng.getrandbits(48) for _ in range(rng.randint(1, 4))]]
    if verb == "merge":
        return [verb, *rng.sample(names, 2)]
    if verb == "rename":
        return [verb, rng.choice(names), f"{tag}{rng.getrandbits(40):x}"]
    return [verb, rng.choice(names)]


def work(path: Path, seed: int, mode: str, state: str) -> None:
    """The worker: changes until killed, or until `enroll` mode has made 1,000 enrolments."""
    rng, book = random.Random(seed), Book(json.loads(state))
    if mode == "full":
        limit = path.stat().st_size + 8192
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        for number in range(1000):
            if mode == "enroll":
                operation: Operation = ["enroll", f"p{seed}-{number}", [rng.getrandbits(48)]]
            else:
                operation = choose(book, rng, "p")
            print("try", json.dumps(operation), flush=True)
            try:
                perform(gallery, operation)
            except GalleryError as error:
                if mode != "full":
                    raise
                # Forgotten rows are gone even if the file could not be rewritten.
                if "is forgotten" not in str(error):
                    print("fail", flush=True)
                    continue
            book.apply(operation)
            print("ack", flush=True)


@dataclass
class Outcome:
    """What rounds of killing came to."""

    rounds: int = 0
    acknowledged: int = 0
    lost: int = 0
    half: int = 0
    refused: int = 0


def strike(path: Path, book: Book, outcome: Outcome, *, seed: int, mode: str, stop: int) -> Book:
    """One round: a worker is killed within moments of its `stop`-th answer, which in mode `full`
    may be a refusal. Returns the book of what the gallery really holds."""
    command = [sys.executable, "-m", "bench.faults", str(path), str(seed), mode]
    pending: Operation | None = None
    answers = 0
    with subprocess.Popen(
        [*command, json.dumps(book.people)], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "try":
                pending = json.loads(rest)
                continue
            if word == "ack" and pending is not None:
                book.apply(pending)
                outcome.acknowledged += 1
            else:
                outcome.refused += 1
            pending, answers = None, answers + 1
            if answers == stop:
                # Somewhere inside the next change, or in the one after it.
                time.sleep(random.Random(seed).random() * 0.03)
                worker.kill()
    outcome.rounds += 1
    return settle(path, book, pending, outcome)


def settle(path: Path, book: Book, pending: Operation | None, outcome: Outcome) -> Book:
    """Compare the file with the book; the book that holds from here on."""
    held = content(path)
    if held == book.content():
        return book
    if pending is not None:
        whole = book.after(pending)
        if held == whole.content():
            return whole
    wanted = book.content()
    outcome.lost += sum(held.get(name) != rows for name, rows in wanted.items())
    outcome.half += 1
    raise AssertionError(f"the gallery holds neither the acknowledged state nor the next: {path}")


def kill(folder: Path, mode: str, rounds: int, most: int) -> Outcome:
    """`rounds` kills; `mode` enroll starts a gallery per round, the others go on with one."""
    outcome, book, path = Outcome(), Book(), folder / f"{mode}.gallery"
    rng = random.Random(0)
    for number in range(rounds):
        if mode == "enroll":
            book, path = Book(), folder / f"{mode}-{number}.gallery"
        book = strike(path, book, outcome, seed=number, mode=mode, stop=rng.randint(1, most))
    return outcome


def fill(folder: Path, rounds: int) -> Outcome:
    """A disk that fills up (the size limit of a process) while a gallery is being changed."""
    outcome, book, path = Outcome(), Book(), folder / "full.gallery"
    Gallery.open(path, model=MODEL, size=SIZE).close()
    for number in range(rounds):
        book = strike(path, book, outcome, seed=number, mode="full", stop=80)
    return outcome


def load(folder: Path, processes: int, threads: int, seconds: float) -> dict[str, float]:
    """Mixed changes and searches from several threads of several processes at once."""
    path = folder / "load.gallery"
    Gallery.open(path, model=MODEL, size=SIZE).close()
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.faults", str(path), str(n), "load",
             json.dumps({"threads": threads, "seconds": seconds})],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(processes)
    ]  # fmt: skip
    # Wait for all before reading any: the folder has to outlive the last of them.
    said = [worker.communicate()[0].splitlines() for worker in workers]
    if broken := [w.returncode for w in workers if w.returncode]:
        raise AssertionError(f"{len(broken)} of {processes} processes broke off: see above")
    reports = [json.loads(lines[-1]) for lines in said]
    book = Book({name: seeds for r in reports for name, seeds in r["people"].items()})
    waits = np.array([t for r in reports for t in r["search_ms"]])
    return {
        "errors": float(sum(r["errors"] for r in reports)),
        "lost": float(content(path) != book.content()),
        "changes": float(sum(r["changes"] for r in reports)),
        "searches": float(len(waits)),
        "search_ms.median": float(np.median(waits)),
        "search_ms.p95": float(np.quantile(waits, 0.95)),
    }


def take_load(path: Path, number: int, threads: int, seconds: float) -> None:
    """One process of `load`: each thread changes its own people and searches for anybody."""
    books = [Book() for _ in range(threads)]
    errors, changes, waits = [0] * threads, [0] * threads, []

    def run(gallery: Gallery, thread: int) -> None:
        rng, tag = random.Random(1000 * number + thread), f"{number}.{thread}."
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            operation = choose(books[thread], rng, tag)
            try:
                perform(gallery, operation)
                books[thread].apply(operation)
                changes[thread] += 1
                for _ in range(20):
                    name = rng.choice(list(books[thread].people) or [""])
                    start = time.perf_counter()
                    found = gallery.search(face(books[thread].people.get(name, [0])[0]), 1)
                    waits.append(1e3 * (time.perf_counter() - start))
                    errors[thread] += bool(name) and found[0].name != name
            except Exception as error:
                print(f"faults: {tag} {operation}: {error!r}", file=sys.stderr)
                errors[thread] += 1

    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        crew = [threading.Thread(target=run, args=(gallery, t)) for t in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
    people = {name: seeds for book in books for name, seeds in book.people.items()}
    print(json.dumps({"people": people, "errors": sum(errors), "changes": sum(changes),
                      "search_ms": [round(w, 3) for w in waits]}))  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long to go on."""
    parser.add_argument("--kills", type=int, default=200, help="kills during mixed changes")
    parser.add_argument("--enrolments", type=int, default=20, help="kills during 1,000 enrolments")
    parser.add_argument("--seconds", type=float, default=300.0, help="length of the mixed load")


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    """What was lost, and how much was tried."""
    kills, enrolments = (4, 2) if args.quick else (args.kills, args.enrolments)
    seconds = 5.0 if args.quick else args.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "enrol": kill(folder, "enroll", enrolments, 20 if args.quick else 999),
            "kill9": kill(folder, "mixed", kills, 12),
            "disk_full": fill(folder, 2 if args.quick else 10),
        }
        result: dict[str, float | str | None] = {
            f"faults.{part}.{key}": float(value)
            for part, outcome in parts.items()
            for key, value in vars(outcome).items()
        }
        for key, value in load(folder, 4, 4, seconds).items():
            result[f"faults.load.{key}"] = value
    return result


if __name__ == "__main__":
    where, seed, mode, state = sys.argv[1:]
    if mode == "load":
        take_load(Path(where), int(seed), **json.loads(state))
    else:
        work(Path(where), int(seed), mode, state)
