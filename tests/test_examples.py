"""The examples run, and so does every command block of the documents.

The blocks of one document run in order in a folder that holds the files they name. A camera is
stood in for by the sample clip. What cannot run here is checked as far as it can be: benches and
exports by their names and options, `make` by a dry run, `pip` by the extras, the machine's own
commands by syntax.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

from bench import __main__ as bench
from edgeface import cli
from edgeface.gallery import Gallery
from edgeface.models import load_card, read_card

EXAMPLES = ROOT / "examples"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = DOCUMENTS[0].read_text(encoding="utf-8")
STRANGERS = 300  # what a false-positive rate of 1e-2 asks for


def test_the_loop_of_ten_lines_names_the_person(tmp_path: Path, sample: Path) -> None:
    command = [sys.executable, EXAMPLES / "ten_lines.py", sample / "clip.mp4", "Eileen"]
    done = subprocess.run(
        [*map(str, command), str(sample / "eileen.jpg")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    named = {e["track"] for e in events if e["name"] == "Eileen"}
    assert len(named) == 1
    assert {e["name"] for e in events} == {"Eileen", None}


def test_the_still_of_a_video(tmp_path: Path, sample: Path) -> None:
    command = [sys.executable, EXAMPLES / "still.py", sample / "clip.mp4", tmp_path / "s.png"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert (tmp_path / "s.png").stat().st_size > 10_000
    command[2] = tmp_path / "none.mp4"
    failed = subprocess.run(list(map(str, command)), check=False, capture_output=True)
    assert failed.returncode == 1


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a document in one language, in order."""
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[str]:
    """The commands of a block, continued lines joined, comments left out."""
    for line in block.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if command:
            yield command


@pytest.fixture
def desk(tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with the files that the documents name."""
    capture = cv2.VideoCapture(str(sample / "clip.mp4"))
    pictures = [capture.read()[1] for _ in range(120)]
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (640, 360)
    )
    for picture in pictures[60:]:
        writer.write(picture)
    writer.release()
    alice, hopper = (sample / "eileen.jpg").read_bytes(), pictures[90][:, 330:]
    stranger = cv2.imencode(".jpg", hopper)[1].tobytes()
    for name in ("alice1.jpg", "alice2.jpg", "a.jpg", "people/Alice/1.jpg", "photos/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(alice)
    (tmp_path / "people" / "Dora").mkdir()
    for name in ("b.jpg", "people/Dora/1.jpg", "photos/2.jpg"):
        (tmp_path / name).write_bytes(stranger)
    cv2.imwrite(str(tmp_path / "group.jpg"), pictures[90])
    cv2.imwrite(str(tmp_path / "wall.jpg"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "strangers").mkdir()
    small = cv2.imencode(".jpg", cv2.resize(hopper[60:320, 40:300], (130, 130)))[1].tobytes()
    for number in range(STRANGERS):
        (tmp_path / "strangers" / f"{number}.jpg").write_bytes(small)
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    card = json.loads((ROOT / "edgeface/weights/mobilefacenet.json").read_text())
    (models / "mine.json").write_text(json.dumps(card | {"name": "mine", "file": "mine.onnx"}))
    shutil.copy(ROOT / "edgeface/weights/mobilefacenet.onnx", models / "mine.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stock(gallery: Path) -> None:
    """Fill a gallery with the people whom the document on galleries looks after."""
    card = load_card("mobilefacenet", "embedding")
    rows = np.random.default_rng(5).standard_normal((16, card.size))
    with Gallery.open(gallery, model=card.digest, size=card.size) as store:
        store.enroll("Zoë", rows[:9])
        store.enroll("Robert", rows[9:])
        store.split("Zoë", list(range(2, 10)))  # stranger-1


def here(text: str) -> str:
    """A command or program with what this machine lacks put right: cameras, system folders."""
    return text.replace("cam0", "clip.mp4").replace("/var/lib/edgeface/", "")


def run_edgeface(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(here(command))
    with monkeypatch.context() as patch:
        while "=" in words[0]:
            patch.setenv(*words.pop(0).split("=", 1))
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            cli.main()
    differ = "--exit-code" in words  # the pictures of the examples show two people
    assert stop.value.code in ({1} if differ else {0, None}), command


def check_bench(words: list[str]) -> None:
    if words[:1] == ["report"]:
        return
    names = [w for w in words if w in bench.NAMES]
    assert names and words[0] in names, f"{words[0]} is no bench"
    sources = "".join(
        (ROOT / "bench" / f"{n}.py").read_text(encoding="utf-8") for n in [*names, "__main__"]
    )
    for option in (w for w in words if w.startswith("--")):
        assert f'"{option}"' in sources, f"{option} is no option of bench {names}"


def check_export(words: list[str]) -> None:
    told = (ROOT / "export" / "__main__.py").read_text(encoding="utf-8")
    assert f'"{words[0]}":' in told, f"{words[0]} is no verb of export"
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "export").glob("*.py"))
    for option in (w for w in words if w.startswith("--") and w != "--help"):
        assert f'"{option}"' in sources, f"{option} is no option of export"


def check_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        for extra in re.findall(r"\[(.*)\]", word):
            assert set(extra.split(",")) <= set(project["optional-dependencies"]), word


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    if re.match(r"([A-Z_]+=\S+ )*edgeface ", command):
        run_edgeface(command, monkeypatch)
    elif words[:3] == ["python", "-m", "bench"]:
        check_bench(words[3:])
    elif words[:3] == ["python", "-m", "export"]:
        check_export(words[3:])
    elif words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[0] == "pip":
        check_pip(words[1:])
    else:
        assert words[0] in {"sudo", "journalctl"}, f"nothing here runs or checks: {command}"
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_command_of_the_documents_runs(
    document: Path, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if document.stem == "gallery":
        stock(desk / "office.gallery")
    for block in blocks(document, "sh"):
        for command in commands(block):
            run_command(command, monkeypatch)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_the_python_of_the_documents_runs(document: Path, desk: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks(document, "python"):
        exec(compile(here(block), document.name, "exec"), names)


def test_the_commands_of_the_workshop_exist() -> None:
    for block in blocks(ROOT / "export" / "README.md", "sh"):
        for command in commands(block):
            words = shlex.split(command)
            if words[:2] == ["python", "-c"]:
                compile(words[2], command, "exec")
            if words[:2] != ["python", "-m"]:
                assert words[0] in {"for", "done", "python"}, command
                continue
            (check_export if words[2] == "export" else check_bench)(words[3:])


def test_the_service_starts_what_it_says(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unit,) = blocks(ROOT / "docs" / "deployment.md", "ini")
    (start,) = re.findall(r"^ExecStart=/opt/edgeface/bin/(.*)$", unit, re.MULTILINE)
    run_edgeface(start, monkeypatch)


def test_the_documents_show_lines_as_they_are_printed(sample: Path, desk: Path) -> None:
    import edgeface as ef

    with ef.Identifier.open("lines.gallery") as app:
        app.enroll("Alice", ["alice1.jpg"])
        (first, *_) = app.watch("clip.mp4")
    for document in DOCUMENTS:
        for block in blocks(document, "json"):
            shown = json.loads(block)
            if "task" in shown:
                file = desk / f"{shown['name']}.json"
                file.write_text(block)
                assert read_card(file).name == shown["name"]
            else:
                assert list(shown) == list(first.to_dict()), document.name


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [*DOCUMENTS, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_is_short_and_says_what_this_is_not() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    assert "Idiap" in lines[1]
