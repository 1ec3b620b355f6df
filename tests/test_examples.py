"""The examples run, and so does every command block of the documents, with the output it shows.

The blocks of one document run in order in a folder that holds the files they name. A `console`
block shows what a terminal does: `$ command` and what it prints, `…` standing for whatever differs
between machines and days, on a line of its own for any lines. The sample clip takes the place of a
camera. What cannot run here is checked as far as it can be: benches and
exports by their names and options, `make` by a dry run, `pip` by the extras, the machine's own
commands by syntax.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
import uvicorn
from conftest import ROOT

from bench import __main__ as bench
from edgeface import cli
from edgeface.alignment import align
from edgeface.detect import Detector
from edgeface.embed import Embedder
from edgeface.gallery import Gallery
from edgeface.models import load_card, read_card
from edgeface.piles.server import PileServer
from edgeface.submodels import Rule, SubmodelBank

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
    cv2.imwrite(str(tmp_path / "photos" / "3.jpg"), pictures[90][:, :330])  # the first once more
    (tmp_path / "people" / "Dora").mkdir()
    for name in ("b.jpg", "people/Dora/1.jpg", "photos/2.jpg"):
        (tmp_path / name).write_bytes(stranger)
    cv2.imwrite(str(tmp_path / "group.jpg"), pictures[90])
    cv2.imwrite(str(tmp_path / "wall.jpg"), np.full((200, 200, 3), 90, np.uint8))
    blurred = cv2.GaussianBlur(cv2.imread(str(tmp_path / "a.jpg")), (0, 0), 5)
    cv2.imwrite(str(tmp_path / "blurred.jpg"), blurred)
    (tmp_path / "pairs.txt").write_text(
        "a.jpg alice2.jpg 1\nb.jpg b.jpg 1\na.jpg b.jpg 0\ngroup.jpg b.jpg 1\n"
    )
    (tmp_path / "strangers").mkdir()
    small = cv2.imencode(".jpg", cv2.resize(hopper[60:320, 40:300], (130, 130)))[1].tobytes()
    for number in range(STRANGERS):
        (tmp_path / "strangers" / f"{number}.jpg").write_bytes(small)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    card = json.loads((ROOT / "edgeface/weights/mobilefacenet.json").read_text())
    card |= {"name": "mine", "file": "mine.onnx", "fusion": None}
    (models / "mine.json").write_text(json.dumps({k: v for k, v in card.items() if v is not None}))
    shutil.copy(ROOT / "edgeface/weights/mobilefacenet.onnx", models / "mine.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pack(picture: Path, bank: Path) -> None:
    """A bank of submodels whose seventh class is who the picture shows."""
    image, embedder = cv2.imread(str(picture)), Embedder.load()
    centres = np.random.default_rng(6).standard_normal((8, embedder.size)).astype(np.float32)
    centres[6] = embedder(align(image, Detector.load()(image)[:1]))[0]
    names = [*(f"n{i:06d}" for i in range(6)), "Dora", "n000007"]
    SubmodelBank.pack(
        centres, centres, np.arange(8) % 2, names=names, rule=Rule("maxmax"),
        embedder=embedder.card.digest,
    ).save(bank)  # fmt: skip


def stock(gallery: Path) -> None:
    """Fill a gallery with the people whom the document on galleries looks after."""
    card = load_card("mobilefacenet", "embedding")
    rows = np.random.default_rng(5).standard_normal((16, card.size))
    with Gallery.open(gallery, model=card.digest, size=card.size) as store:
        store.enroll("Zoë", rows[:9])
        store.enroll("Robert", rows[9:])
        store.split("Zoë", list(range(2, 10)))  # stranger-1


def here(text: str) -> str:
    """A command or program with what this machine lacks put right: cameras, servers, folders."""
    text = text.replace("$GALLERY_URL", "office.gallery")
    return text.replace("cam0", "clip.mp4").replace("/var/lib/edgeface/", "")


class Terminal(io.StringIO):
    """A stdout on a terminal; its messages come through `Messages`, in the order of printing."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Messages(Terminal):
    """A stderr that shows on the same terminal, without the line of progress."""

    def __init__(self, screen: Terminal) -> None:
        super().__init__()
        self._screen = screen

    def write(self, text: str) -> int:
        return self._screen.write(text)

    def isatty(self) -> bool:
        return False


def run_edgeface(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and screen of a command run on a terminal of 100 columns."""
    words = shlex.split(here(command))
    screen = Terminal()
    with monkeypatch.context() as patch:
        while "=" in words[0]:
            patch.setenv(*words.pop(0).split("=", 1))
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "stdout", screen)
        patch.setattr(sys, "stderr", Messages(screen))
        patch.setenv("COLUMNS", "100")
        patch.setattr(PileServer, "serve_forever", lambda server: None)  # until Ctrl-C
        patch.setattr(uvicorn.Server, "run", lambda server, sockets: None)  # as well
        patch.setattr(webbrowser, "open", lambda address: True)
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return int(stop.value.code or 0), screen.getvalue()


def check_edgeface(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, screen = run_edgeface(command, monkeypatch)
    differ = "--exit-code" in command  # the pictures of the examples show two people
    assert code == (1 if differ else 0), f"{command}\n{screen}"


def shows(expected: list[str], screen: list[str]) -> bool:
    """Whether a screen is what a document shows of it."""
    if not expected:
        return not screen
    if expected[0] == "…":
        return any(shows(expected[1:], screen[i:]) for i in range(len(screen) + 1))
    return bool(screen) and reads(expected[0], screen[0]) and shows(expected[1:], screen[1:])


def reads(expected: str, line: str) -> bool:
    """Whether a line is as shown. Spaces do not count; decimals and numbers from 20 up may be a
    tenth or .05 off, as they are between processors and runtimes."""
    wanted: list[float] = []
    pattern = ""
    for part in re.split(
        r"(…|\d+\.\d+|(?<![\d.])(?:\d{3,}|[2-9]\d)(?!\d))", " ".join(expected.split())
    ):
        if part == "…":
            pattern = pattern.removesuffix(r"\ ") + ".*?"
        elif (
            re.fullmatch(r"\d+(\.\d+)?", part)
            and float(part)
            and (float(part) >= 20 or "." in part)
        ):
            pattern += r"(\d+(?:\.\d+)?)"
            wanted.append(float(part))
        else:
            pattern += re.escape(part)
    found = re.fullmatch(pattern, " ".join(line.split()))
    return found is not None and all(
        abs(float(text) - number) <= max(0.05, number / 10)
        for text, number in zip(found.groups(), wanted, strict=True)
    )


def dialogues(block: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a console block and the lines that follow each."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.replace("\\\n", " ").splitlines()
        yield re.sub(r"\s+# .*$", "", lines[0]), [line.rstrip() for line in lines[1:]]


def check_dialogue(command: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if command == "echo $?":
        return
    if not command.startswith("edgeface "):
        run_command(command, monkeypatch)
        return
    _, screen = run_edgeface(command, monkeypatch)
    lines = [line.rstrip() for line in screen.splitlines()]
    assert shows(expected, lines), "\n".join(["$ " + command, *lines, "-- is not --", *expected])


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
        check_edgeface(command, monkeypatch)
    elif words[:3] == ["python", "-m", "bench"]:
        check_bench(words[3:])
    elif words[:3] == ["python", "-m", "export"]:
        check_export(words[3:])
    elif words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[0] == "pip":
        check_pip(words[1:])
    else:
        checked = {"sudo", "journalctl", "curl", "podman", "packaging/image", "packaging/try-image"}
        assert words[0] in checked, f"nothing here runs or checks: {command}"
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_command_of_the_documents_runs(
    document: Path, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if document.stem == "gallery":
        stock(desk / "office.gallery")
    if document.stem == "cli":
        pack(desk / "b.jpg", desk / "staff.efb")
    text = document.read_text(encoding="utf-8")
    found = re.findall(r"^```(sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for language, block in found:
        if language == "sh":
            for command in commands(block):
                run_command(command, monkeypatch)
        else:
            for command, expected in dialogues(block):
                check_dialogue(command, expected, monkeypatch)


def test_what_a_screen_shows_is_compared_line_by_line() -> None:
    screen = ["name   n", "Ann    0.93", "Bob    0.31"]
    assert shows(["name  n", "Ann  0.9…", "Bob  …"], screen)
    assert shows(["name n", "…"], screen) and shows(["…", "Bob 0.31"], screen)
    assert shows(["…"], []) and shows([], [])
    assert shows(["name n", "Ann 0.91", "Bob 0.33"], screen)
    assert reads("at 101 61 in 2.3 s, …", "at 99 60 in 2.5 s, 1.2") and not reads("at 9", "at 8")
    assert reads("box 418 20", "box 414 21") and not reads("box 418 20", "box 318 21")
    assert not reads("at 101", "at 201") and not reads("id 3", "id 4") and reads("no …", "no")
    for wrong in (["name n"], ["name n", "Ann 0.8…", "…"], [*screen, "more"], [], ["…", "Eve …"]):
        assert not shows(wrong, screen), wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_the_python_of_the_documents_runs(
    document: Path, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A receiver has no other end; test_webhook.py lets the one of the documents receive.
    monkeypatch.setattr(
        "http.server.HTTPServer.serve_forever", lambda server: server.server_close()
    )
    names: dict[str, object] = {}
    for block in blocks(document, "python"):
        exec(compile(here(block), document.name, "exec"), names)


def test_the_architecture_names_every_module() -> None:
    told = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for path in (ROOT / "edgeface").iterdir():
        name = path.name.removesuffix(".py")
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert name == "__init__" or re.search(rf"\b{name}\b", told), name


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the command line and the words that call it."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


def sections(text: str) -> dict[str, str]:
    """The parts of a document by their headings, each with the parts below it."""
    found = {}
    for match in re.finditer(r"^(#+) (.*)$", text, re.MULTILINE):
        following = re.search(rf"^#{{1,{len(match[1])}}} ", text[match.end() :], re.MULTILINE)
        end = match.end() + following.start() if following else len(text)
        found[match[2]] = text[match.end() : end]
    return found


def test_every_command_and_option_is_in_the_documents() -> None:
    told = sections((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"))
    everywhere = told["Options of several commands"]
    for path, command in verbs(typer.main.get_command(cli.app)):
        words = " ".join(("edgeface", *path))
        assert words in told, f"docs/cli.md has no part called {words}"
        own = told[words]
        assert f"$ {words}" in own or f"\n{words}" in own, f"{words} is never run in docs/cli.md"
        for option in command.params:
            if option.param_type_name == "option":
                names = [f"`{name}`" for name in option.opts]
                names += [f"`{name} " for name in option.opts]
                assert any(n in own + everywhere for n in names), f"{words}: {option.opts}"
    for variable in re.findall(r'"(EDGEFACE_[A-Z_]+)"', sources(ROOT / "edgeface")):
        # One that ends so is the beginning of a name of the user's.
        end = "" if variable.endswith("_") else "`"
        assert f"`{variable}{end}" in told["Environment"], variable


def sources(folder: Path) -> str:
    return "".join(p.read_text(encoding="utf-8") for p in folder.rglob("*.py"))


def test_the_documents_speak_plainly() -> None:
    metaphors = r"\b(house|rooms?|workshop|lest|foretold|foretells?|hindsight|to be had)\b"
    for document in [*DOCUMENTS, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]:
        for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
            found = re.search(metaphors, line, re.IGNORECASE)
            assert not found, f"{document.name}:{number}: {found}"


def test_the_commands_of_export_exist() -> None:
    for block in blocks(ROOT / "export" / "README.md", "sh"):
        for command in commands(block):
            words = shlex.split(command)
            if words[:2] == ["python", "-c"]:
                compile(words[2], command, "exec")
            if words[:2] != ["python", "-m"]:
                assert words[0] in {"for", "done", "python", "export", "edgeface"}, command
                continue
            (check_export if words[2] == "export" else check_bench)(words[3:])


def test_the_service_starts_what_it_says(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unit,) = blocks(ROOT / "docs" / "deployment.md", "ini")
    stock(desk / "people.gallery")
    (start,) = re.findall(r"^ExecStart=/opt/edgeface/bin/(.*)$", unit, re.MULTILINE)
    check_edgeface(start, monkeypatch)


def test_the_documents_show_lines_as_they_are_printed(sample: Path, desk: Path) -> None:
    import edgeface as ef
    from edgeface.cameras.camera import news
    from edgeface.video import Link

    with ef.Identifier.open("lines.gallery") as app:
        app.enroll("Alice", ["alice1.jpg"])
        (first, *_) = app.watch("clip.mp4")
    camera = news(Link(), "door")
    assert camera is not None
    for document in DOCUMENTS:
        for block in blocks(document, "json"):
            shown = json.loads(block)
            if "task" in shown:
                file = desk / f"{shown['name']}.json"
                file.write_text(block)
                assert read_card(file).name == shown["name"]
            elif "track" in shown:
                assert list(shown) == list(first.to_dict()), document.name
            elif shown.get("type") == "face":  # for Frigate: test_frigate.py has real ones
                assert list(shown) == ["type", "id", "name", "score", "camera", "timestamp"]
            elif "success" in shown or "result" in shown:  # test_dialects.py has real ones
                assert "predictions" in shown or "box" in shown["result"][0], document.name
            elif "camera" in shown:
                assert list(shown) == list(camera), document.name
            elif "event" in shown:  # of a person: test_sightings_ties.py has real ones
                fields = json.loads((ROOT / "docs" / "event.schema.json").read_text("utf-8"))
                assert list(shown) == fields["$defs"]["person"]["required"], document.name
            else:  # an error of the service
                assert list(shown) == ["error", "request_id"], document.name


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [*DOCUMENTS, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_is_short_and_says_what_this_is_not() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    assert "Idiap" in "".join(lines[:8])
