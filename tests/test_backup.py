"""A backup is of one moment whatever is written meanwhile, comes back byte for byte, and a bad one
changes nothing."""

import hashlib
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_sightings import D, event, unit

from edgeface.backup import Role, back_up, read_manifest, restore
from edgeface.errors import ArgumentError, BackupError, GalleryError
from edgeface.gallery import Gallery
from edgeface.serve.files import OWN
from edgeface.sightings import Sightings
from edgeface.sightings.store import SUFFIX

KEY = bytes(range(32))
ROWS = "SELECT * FROM {} ORDER BY rowid"


def digest(file: Path) -> str:
    """Every row of every table of a SQLite file."""
    found = hashlib.sha256()
    with closing(sqlite3.connect(file)) as rows:
        names = [n for (n,) in rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in sorted(names):
            for row in rows.execute(ROWS.format(name)):
                found.update(repr((name, row)).encode())
    return found.hexdigest()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fill(folder: Path, key: bytes | None = None, people: int = 3) -> Path:
    """A gallery with people, their sightings with crops, settings, and a service's own files."""
    folder.mkdir(exist_ok=True)
    path = folder / "office.gallery"
    with (
        Gallery.open(path, model="m", size=D, key=key) as gallery,
        Sightings.open(gallery) as store,
    ):
        for number in range(people):
            who = gallery.enroll(f"Person {number}", unit(number))
            told = event(number, number, who=who, row=unit(number))
            appearance, _ = store.record(told)
            store.keep_crop(appearance, b"jpeg" * 50, 0.5, datetime(2026, 3, 1, tzinfo=UTC))
    (folder / "office.toml").write_text('gallery = "office.gallery"\n')
    (folder / "office.gallery.cameras.json").write_text("[]")
    return path


def saved(path: Path, archive: Path, **options):
    folder = path.parent
    own = [folder / "office.gallery.cameras.json"]
    return back_up(archive, path, settings=folder / "office.toml", own=own, **options)


def test_all_of_it_comes_back(tmp_path) -> None:
    path, archive, away = fill(tmp_path / "here"), tmp_path / "a.backup", tmp_path / "deep" / "er"
    with Gallery.open(path) as gallery, Sightings.open(gallery):  # in use, as by a service
        made = saved(path, archive)
    assert [part.role for part in made.parts] == [
        Role.GALLERY, Role.SIGHTINGS, Role.SETTINGS, Role.OWN,
    ]  # fmt: skip
    assert (made.people, made.sightings) == (3, 3)
    assert read_manifest(archive) == made == restore(archive, away)
    assert archive.stat().st_mode & 0o777 == 0o600
    for part in made.parts:
        content = (away / part.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == part.sha256 and len(content) == part.bytes
        assert (away / part.name).stat().st_mode & 0o777 == 0o600
    for name in ("office.toml", "office.gallery.cameras.json"):
        assert (away / name).read_bytes() == (path.parent / name).read_bytes()
    for name in ("office.gallery", "office.gallery.sightings"):
        assert digest(away / name) == digest(path.parent / name)
    with Gallery.open(away / "office.gallery") as gallery, Sightings.open(gallery) as store:
        assert [row.name for row in store.rows().rows] == ["Person 2", "Person 1", "Person 0"]
        assert store.crop(1) == b"jpeg" * 50
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.backup", "deep", "here"]


def test_a_gallery_alone(tmp_path) -> None:
    with Gallery.open(tmp_path / "g", model="m", size=D) as gallery:
        gallery.enroll("Alice", unit(1))
        made = back_up(tmp_path / "b", tmp_path / "g")
    assert [part.name for part in made.parts] == ["g"] and made.sightings == 0
    restore(tmp_path / "b", tmp_path / "x")
    with Gallery.open(tmp_path / "x" / "g") as gallery:
        assert [p.name for p in gallery.people()] == ["Alice"]


WRITER = """
import os, sys, time
sys.path.insert(0, "tests")
from test_sightings import D, event, unit
from edgeface.gallery import Gallery
from edgeface.sightings import Sightings
path, name, ending = sys.argv[1:]
deadline = time.monotonic() + 60
with Gallery.open(path) as gallery, Sightings.open(gallery) as store:
    print("ready", flush=True)
    number = 0
    while not os.path.exists(ending) and time.monotonic() < deadline:
        # Somebody new is seen, now and then renamed, merged into another, or forgotten.
        number += 1
        who = gallery.enroll(f"{name} {number}", unit(hash((name, number)) % 2**32))
        for track in range(3):
            made = event(number * 10 + track, number * 10 + track, who=who, row=unit(7), run=name,
                         camera=name)
            appearance, _ = store.record(made)
            store.keep_crop(appearance, name.encode() * 500, 0.5, made.at)
        if number % 3 == 0:
            store.people.name(who.id, f"{name} renamed {number}")
        if number % 4 == 1:
            kept = who.id
        if number % 4 == 0:
            store.people.merge(kept, [who.id])
        if number % 5 == 0:
            store.people.forget(gallery.enroll(f"{name} gone {number}", unit(3)).id)
            who = gallery.enroll(f"{name} soon gone {number}", unit(4))
            store.record(event(number * 10 + 9, number * 10 + 9, who=who, run=name, camera=name))
            store.people.forget(who.id)
"""


def test_a_backup_while_two_processes_change_everything(tmp_path) -> None:
    path, ending = fill(tmp_path / "here", people=30), tmp_path / "end"
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, str(path), name, str(ending)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name in ("door", "yard")
        ]
        stack.callback(ending.touch)
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        counts, logs = [], []
        for number in range(4):
            time.sleep(0.2)
            counts.append(saved(path, tmp_path / f"{number}.backup").sightings)
            restore(tmp_path / f"{number}.backup", tmp_path / f"away{number}")
            logs.append(is_of_one_moment(tmp_path / f"away{number}"))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert all(counts)
    lasts = [log[-1][0] for log in logs]
    assert lasts == sorted(lasts) and lasts[-1] > lasts[0], "nothing was written meanwhile"
    with Gallery.open(path) as gallery:
        Sightings.open(gallery).close()  # the log is in the file now
    saved(path, tmp_path / "last.backup")
    restore(tmp_path / "last.backup", tmp_path / "last")
    told = is_of_one_moment(tmp_path / "last")
    for log in logs:  # all that is in the log to this day was in it, but for what came later
        assert {row for row in told if row[0] <= log[-1][0]} <= set(log)
    for name in ("office.gallery", "office.gallery.sightings"):
        assert digest(tmp_path / "last" / name) == digest(path.parent / name)


def is_of_one_moment(away: Path) -> list[tuple[int, str]]:
    """The copies are whole and agree with each other; the number and id of every event."""
    copies = away / "office.gallery", away / "office.gallery.sightings"
    with closing(sqlite3.connect(copies[0])) as people, closing(sqlite3.connect(copies[1])) as rows:
        assert people.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        there = {i for (i,) in people.execute("SELECT id FROM person")}
        heirs = dict(rows.execute("SELECT gone, heir FROM alias"))
        held = {i for (i,) in rows.execute("SELECT coalesce(given, person) FROM appearance")}
        held |= {i for (i,) in rows.execute("SELECT person FROM event")}
        for person in held - {None}:
            while person not in there:
                person = heirs[person]
        return rows.execute("SELECT seq, id FROM event ORDER BY seq").fetchall()


def test_nobody_whom_the_gallery_lacks_is_in_the_sightings(tmp_path) -> None:
    """Forgetting is two changes, first of the gallery: a backup may be made between them."""
    path = fill(tmp_path / "here")
    with Gallery.open(path) as gallery:
        gallery.forget("Person 1")
    with closing(sqlite3.connect(f"{path}.sightings")) as rows:
        assert rows.execute("SELECT count(*) FROM appearance").fetchone() == (3,)
    assert saved(path, tmp_path / "b").sightings == 2
    restore(tmp_path / "b", tmp_path / "x")
    is_of_one_moment(tmp_path / "x")
    assert b"Person 1" not in (tmp_path / "b").read_bytes()


def test_cameras_write_while_the_sightings_are_copied(tmp_path, monkeypatch) -> None:
    path = fill(tmp_path / "here")
    from edgeface.backup import moment

    copied, took = moment._copy, []

    def slow(connection, file, to):
        begun = time.monotonic()
        with Gallery.open(path) as gallery, Sightings.open(gallery) as store:
            store.record(event(50 + len(took), 50 + len(took)))
            if file.name.endswith("sightings"):
                gallery.enroll(f"New {len(took)}", unit(9))  # the gallery has been let go
        took.append(time.monotonic() - begun)
        copied(connection, file, to)

    monkeypatch.setattr(moment, "_copy", slow)
    assert saved(path, tmp_path / "b").sightings == 3
    assert len(took) == 2 and max(took) < 5.0
    restore(tmp_path / "b", tmp_path / "x")
    with Gallery.open(tmp_path / "x" / path.name) as gallery:
        assert len(gallery.people()) == 3


def test_an_encrypted_gallery_stays_encrypted(tmp_path, monkeypatch) -> None:
    path = fill(tmp_path / "here", key=KEY)
    from edgeface.backup import copying

    seen = []

    def looking(*arguments):
        found = copying_of(*arguments)
        folder = arguments[2]
        seen.extend(p.read_bytes() for p in folder.iterdir())
        return found

    copying_of = copying._open
    monkeypatch.setattr(copying, "_open", looking)
    with pytest.raises(GalleryError, match=r"here/office.gallery is encrypted: set"):
        saved(path, tmp_path / "b")
    with pytest.raises(GalleryError, match="key"):
        saved(path, tmp_path / "b", key=bytes(32))
    assert not (tmp_path / "b").exists()
    saved(path, tmp_path / "b", key=KEY)
    seen.append((tmp_path / "b").read_bytes())
    assert len(seen) == 5
    for content in seen:
        assert b"Person" not in content and b"jpegjpeg" not in content
        assert unit(1).tobytes() not in content
    restore(tmp_path / "b", tmp_path / "x")  # without a key
    with (
        Gallery.open(tmp_path / "x" / path.name, key=KEY) as gallery,
        Sightings.open(gallery) as store,
    ):
        assert [p.name for p in gallery.people()] == ["Person 0", "Person 1", "Person 2"]
        assert store.crop(1) == b"jpeg" * 50


def test_what_is_there_is_replaced_only_when_told(tmp_path) -> None:
    path = fill(tmp_path / "here")
    saved(path, tmp_path / "b")
    with Gallery.open(path) as gallery, Sightings.open(gallery) as store:
        gallery.enroll("Later", unit(40))
        store.record(event(90, 90))
    (path.parent / "other").write_text("mine")
    before = bytes_of(path.parent)
    with pytest.raises(BackupError, match=r"holds office.gallery, .* already"):
        restore(tmp_path / "b", path.parent)
    assert bytes_of(path.parent) == before
    restore(tmp_path / "b", path.parent, replace=True)
    with Gallery.open(path) as gallery, Sightings.open(gallery) as store:
        assert len(gallery.people()) == 3 == len(store.rows().rows)
    assert (path.parent / "other").read_text() == "mine"


def test_a_log_left_by_a_killed_service_is_not_applied_to_the_restored_file(tmp_path) -> None:
    path = fill(tmp_path / "here")
    saved(path, tmp_path / "b")
    code = (
        "import os, sys; sys.path.insert(0, 'tests')\n"
        "from test_sightings import event\n"
        "from edgeface.gallery import Gallery; from edgeface.sightings import Sightings\n"
        f"gallery = Gallery.open({str(path)!r}); store = Sightings.open(gallery)\n"
        "for i in range(50, 80): store.record(event(i, i))\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert Path(f"{path}.sightings-wal").stat().st_size > 0
    restore(tmp_path / "b", path.parent, replace=True)
    with Gallery.open(path) as gallery, Sightings.open(gallery) as store:
        assert len(store.rows().rows) == 3
    shutil.copy(tmp_path / "b", path)  # a gallery that is damaged does not stand in the way
    Path(f"{path}.sightings").write_bytes(b"rubbish" * 1000)
    restore(tmp_path / "b", path.parent, replace=True)
    with Gallery.open(path) as gallery, Sightings.open(gallery) as store:
        assert len(store.rows().rows) == 3


def test_files_in_use_are_not_replaced(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("edgeface.backup.restoring.BUSY_SECONDS", 0.1)
    path = fill(tmp_path / "here")
    saved(path, tmp_path / "b")
    with Gallery.open(path) as gallery, Sightings.open(gallery) as store:
        store.record(event(90, 90))
        with pytest.raises(BackupError, match="in use: stop the service"):
            restore(tmp_path / "b", path.parent, replace=True)
        assert len(store.rows().rows) == 4
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "office.gallery", "office.gallery.cameras.json", "office.gallery.sightings", "office.toml",
    ]  # fmt: skip


def test_damaged_truncated_and_foreign_archives_change_nothing(tmp_path, rng) -> None:
    path = fill(tmp_path / "here")
    saved(path, tmp_path / "b")
    good, away = (tmp_path / "b").read_bytes(), tmp_path / "x"
    bad = tmp_path / "bad"
    cases = {f"cut at {n}": good[: int(n)] for n in rng.integers(0, len(good) - 1, 30)}
    for place in rng.integers(0, len(good), 120).tolist():
        changed = bytearray(good)
        changed[place] ^= 1 << int(rng.integers(8))
        cases[f"bit of {place}"] = bytes(changed)
    cases["text"], cases["sqlite"] = b"hello\n" * 1000, path.read_bytes()
    refused = 0
    for name, content in cases.items():
        bad.write_bytes(content)
        try:
            restore(bad, away)
        except BackupError as error:
            refused += 1
            assert str(bad) in str(error) and "\n" not in str(error), name
            assert not away.exists(), name
        else:  # a field of the ZIP that says nothing of the content, such as a time
            for part in read_manifest(bad).parts:
                assert hashlib.sha256((away / part.name).read_bytes()).hexdigest() == part.sha256
            shutil.rmtree(away)
    assert refused > len(cases) * 0.9
    with pytest.raises(BackupError, match="cannot be read"):
        restore(tmp_path / "nothing", away)
    with pytest.raises(BackupError, match="cannot be read"):
        restore(tmp_path, away)


def rewritten(source: Path, to: Path, change, more=()) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(to, "w") as new:
        about = json.loads(old.read("backup.json"))
        change(about)
        new.writestr("backup.json", json.dumps(about))
        for name in old.namelist()[1:]:
            new.writestr(name, old.read(name))
        for name in more:
            new.writestr(name, b"x")
    return to


def named(about, name: str) -> None:
    about["parts"][name] = {"role": "own", "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}


@pytest.mark.parametrize(
    ("change", "more", "says"),
    [
        (lambda a: a.update(version=2), (), "newer edgeface"),
        (lambda a: a.update(format="other"), (), "no backup of edgeface"),
        (lambda a: a.update(people=-1), (), r"expected an integer"),
        (lambda a: a["parts"]["office.toml"].update(role="boss"), (), "expected"),
        (lambda a: a["parts"]["office.toml"].update(sha256="0" * 64), (), r"office.toml .*damaged"),
        (lambda a: named(a, "../escaped"), ["../escaped"], "refused"),
        (lambda a: named(a, "/tmp/escaped"), ["/tmp/escaped"], "refused"),
        (lambda a: named(a, "..\\escaped"), ["..\\escaped"], "refused"),
        (lambda a: named(a, "missing"), [], "does not hold"),
        (lambda a: None, ["unlisted"], "does not hold"),
    ],
)
def test_hostile_archives_are_refused(tmp_path, change, more, says) -> None:
    path = fill(tmp_path / "here")
    saved(path, tmp_path / "b")
    bad = rewritten(tmp_path / "b", tmp_path / "bad", change, more)
    with pytest.raises(BackupError, match=says):
        restore(bad, tmp_path / "x" / "y")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "bad", "here"]


def test_only_a_backup_is_replaced_by_a_backup(tmp_path) -> None:
    path = fill(tmp_path / "here")
    for wrong in (path, path.parent / "office.toml", path.parent):
        with pytest.raises(BackupError, match="exists and is no backup"):
            saved(path, wrong)
    saved(path, tmp_path / "b")
    saved(path, tmp_path / "b")
    with pytest.raises(ArgumentError, match="no folder"):
        saved(path, tmp_path / "no" / "b")
    with pytest.raises(ArgumentError, match="pg_dump"):
        back_up(tmp_path / "b", "postgresql://somewhere/people")
    with pytest.raises(ArgumentError, match="two files are called office"):
        back_up(tmp_path / "b", path, settings=path)
    with pytest.raises(BackupError, match="nowhere cannot be read"):
        back_up(tmp_path / "b", path, settings=tmp_path / "nowhere")
    with pytest.raises(BackupError, match="missing cannot be read"):
        back_up(tmp_path / "b", tmp_path / "missing")
    Path(f"{path}.sightings").write_bytes(b"SQLite format 3\0" + b"rubbish" * 1000)
    before = (tmp_path / "b").read_bytes()
    with pytest.raises(BackupError, match=r"sightings is damaged.*keep the backups"):
        saved(path, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "here"]


def test_a_full_disk_leaves_no_half_file(tmp_path) -> None:
    """The file system refuses to let a file grow (a limit of the process stands in for it)."""
    path = fill(tmp_path / "here")
    with Gallery.open(path) as gallery:
        gallery.enroll("Much", np.tile(unit(1), (2000, 1)))
    made = saved(path, tmp_path / "b")
    before = bytes_of(tmp_path)
    largest, whole = max(part.bytes for part in made.parts), (tmp_path / "b").stat().st_size
    code = (
        "import resource, signal, sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path; from test_backup import saved, restore\n"
        "from edgeface.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "here = Path(sys.argv[1])\n"
        "for limit in map(int, sys.argv[2:]):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    for work in (lambda: saved(here / 'here' / 'office.gallery', here / 'b'),\n"
        "                 lambda: restore(here / 'b', here / 'x')):\n"
        "        try: work(); print('done', flush=True)\n"
        "        except OutputError as error: print(error, flush=True)\n"
    )
    # Too little for the list, for the small files, the copies, and for the archive alone.
    limits = [10, 500, largest // 2, largest - 1000, (largest + whole) // 2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *map(str, limits)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    told = done.stdout.splitlines()
    assert len(told) == 10 and told[-1] == "done"
    assert all("space" in line for line in told[:-1]), told
    shutil.rmtree(tmp_path / "x")
    assert bytes_of(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "here"]


# The command


def test_the_files_of_a_service_are_found_by_its_settings(tmp_path, run) -> None:
    path = fill(tmp_path / "here")
    data = tmp_path / "data"
    data.mkdir()
    Path(f"{path}.sightings").rename(data / "edgeface.sightings")
    for name in (".token", ".mqtt", ".webhook-0a1b2c3d", ".webhook-ffffffff", ".unrelated"):
        (data / f"edgeface{name}").write_text(name)
    settings = tmp_path / "office.toml"
    # A token that only the service may read is not asked for.
    settings.write_text(
        f'gallery = "{path}"\ndata = "{data}"\nhost = "0.0.0.0"\ntoken_file = "/no/such/file"\n'
    )
    done = run("backup", tmp_path / "b", settings, "--json")
    assert done.code == 0 and "3 people, 3 sightings" in done.err
    assert [(row["role"], row["file"]) for row in done.rows] == [
        ("gallery", "office.gallery"),
        ("sightings", "edgeface.sightings"),
        ("settings", "office.toml"),
        ("own", "edgeface.token"),
        ("own", "edgeface.mqtt"),
        ("own", "edgeface.webhook-0a1b2c3d"),
        ("own", "edgeface.webhook-ffffffff"),
    ]
    back = run("restore", tmp_path / "b", tmp_path / "x", "--json")
    assert back.code == 0 and back.rows == done.rows
    start = f"edgeface serve {tmp_path}/x/office.toml --gallery {tmp_path}/x/office.gallery"
    assert back.err.splitlines()[-1] == f"edgeface: start the service with: {start}"
    assert run("restore", tmp_path / "b", tmp_path / "x").code == 1
    assert run("restore", tmp_path / "b", tmp_path / "x", "--replace").code == 0
    (tmp_path / "b").write_bytes(b"PK")
    bad = run("restore", tmp_path / "b", tmp_path / "y")
    assert bad.code == 1 and "is no backup, or damaged" in bad.err
    assert not (tmp_path / "y").exists()


def test_a_gallery_must_be_named_and_there(tmp_path, run, monkeypatch) -> None:
    monkeypatch.delenv("EDGEFACE_GALLERY", raising=False)
    assert "no gallery" in run("backup", tmp_path / "b").err
    missing = run("backup", tmp_path / "b", "--gallery", tmp_path / "g")
    assert missing.code == 2 and "there is no gallery" in missing.err
    assert not list(tmp_path.iterdir())


def test_every_file_that_a_service_keeps_is_in_a_backup() -> None:
    """Whoever adds one adds it to OWN, too."""
    kept = {SUFFIX}
    for folder in ("serve", "wires"):
        for path in (ROOT / "edgeface" / folder).glob("*.py"):
            kept |= set(re.findall(r"beside\}(\.[\w.-]+)", path.read_text(encoding="utf-8")))
    assert {".cameras.json", ".mqtt", ".webhook-"} <= kept
    missing = {
        end for end in kept - {SUFFIX} if not any(fnmatch(f"{end}0", f"{own}*") for own in OWN)
    }
    assert not missing
