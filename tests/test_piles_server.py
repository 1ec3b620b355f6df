"""The page of a pile: what a browser shows of the file, and what it can do when it is served."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest
from test_piles import run, trusted, who, write_pictures

from edgeface.errors import DataError, OutputError
from edgeface.piles.server import PileServer

__all__ = ["trusted"]
PEOPLE = 5
EVIL = '<img src=x onerror="document.title=1">&"'


@pytest.fixture
def result(tmp_path) -> Path:
    """The result of five people in four pictures each, in folders."""
    write_pictures(tmp_path / "photos", range(PEOPLE), range(4))
    run(tmp_path / "photos", tmp_path / "out", into="link")
    return tmp_path / "out"


@contextmanager
def served(result):
    with PileServer(result) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.stop()
        thread.join(10)


@pytest.fixture
def server(result):
    with served(result) as server:
        yield server


def ask(server, path, body=None, **headers):
    """Status, headers and body of a request below the token."""
    link = http.client.HTTPConnection(*server.host.split(":"), timeout=10)
    data = None if body is None else json.dumps(body)
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    whole = path if path.startswith("/") else f"/{server.token}/{path}"
    link.request("GET" if body is None else "POST", whole, data, headers)
    answer = link.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    link.close()
    return found


def people(result: Path) -> dict[str, int]:
    document = json.loads((result / "people.json").read_text())
    return {f["face"]: p["person"] for p in document["people"] for f in p["faces"]}


def numbers(result: Path) -> dict[str, int]:
    document = json.loads((result / "people.json").read_text())
    return {f["face"]: f["number"] for p in document["people"] for f in p["faces"]}


def journal(result: Path) -> list[dict]:
    return [json.loads(line) for line in (result / "journal.jsonl").read_text().splitlines()]


def test_the_page_and_its_pictures_are_served(server, result) -> None:
    status, headers, body = ask(server, "")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert "'nonce-" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    text = body.decode()
    data = json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])
    assert data["editable"] and len(data["people"]) == PEOPLE
    assert str(result.parent) not in text
    face = data["people"][0]["faces"][0]
    status, headers, picture = ask(server, face["crop"])
    assert (status, headers["Content-Type"], picture[:2]) == (200, "image/jpeg", b"\xff\xd8")
    status, headers, picture = ask(server, face["link"])
    assert (status, headers["Content-Type"], picture[1:4]) == (200, "image/png", b"PNG")
    assert ask(server, "crop/99999")[0] == ask(server, "picture/../../etc/passwd")[0] == 404
    assert ask(server, "nothing")[0] == 404


def test_only_the_page_itself_is_answered(server) -> None:
    change = {"person": 0, "name": "Eve"}
    assert ask(server, "/")[0] == ask(server, "/wrong/")[0] == 403
    assert ask(server, f"/{server.token}x/")[0] == 403
    assert ask(server, "", Host="evil.example")[0] == 403
    assert ask(server, "", Host="localhost:1")[0] == 403
    assert ask(server, "name", change, Origin="http://evil.example")[0] == 403
    plain = {"Content-Type": "text/plain"}
    assert ask(server, "name", change, **plain)[0] == 403
    assert ask(server, "/wrong/name", change)[0] == 403
    assert ask(server, "name", change, **{"Content-Length": "99999999999"})[0] == 413
    assert server._http.server_address[0] == "127.0.0.1"
    assert ask(server, "name", change, Origin=f"http://{server.host}")[0] == 204


def test_people_are_named_merged_and_split(result) -> None:
    photos = result.parent / "photos"
    before = people(result)
    first, second, third = (before[f"p{i} & 0.png#0"] for i in range(3))
    chosen = [numbers(result)[f"p2 & {i}.png#0"] for i in (0, 3)]
    with served(result) as server:
        assert ask(server, "name", {"person": first, "name": EVIL})[0] == 204
        assert ask(server, "merge", {"into": second, "other": first})[0] == 204
        assert ask(server, "split", {"faces": chosen})[0] == 204
        with pytest.raises(OutputError, match="at work on it"):
            run(photos, result, update=True)
    after = people(result)
    assert {after[n] for n in after if n[:2] in {"p0", "p1"}} == {second}
    new = after["p2 & 0.png#0"]
    assert new == after["p2 & 3.png#0"] not in before.values()
    assert after["p2 & 1.png#0"] == third
    assert [e["event"] for e in journal(result)[-3:]] == ["named", "merged", "split"]
    assert (result / "people" / f"person-{new:05d}").is_dir()
    assert not (result / "people" / f"person-{first:05d}").exists()
    # What was said holds when more pictures come.
    write_pictures(photos, range(PEOPLE), range(4, 6))
    found = run(photos, result, update=True, into="link")
    later = who(found)
    assert {name: later[name] for name in after} == after
    assert later["p0 & 5.png#0"] == later["p1 & 5.png#0"] == second
    assert later["p2 & 5.png#0"] in {third, new}
    assert {r.label for r in found.rows if r.person == second} == {EVIL}


@pytest.mark.parametrize(
    ("action", "body", "says"),
    [
        ("name", {"person": 0, "name": " "}, "empty"),
        ("name", {"person": 77, "name": "Ann"}, "person 77"),
        ("name", {"name": "Ann"}, "number of a person"),
        ("merge", {"into": 0, "other": 0}, "themselves"),
        ("merge", {"into": 0, "other": 77}, "person 77"),
        ("split", {"faces": []}, "faces of one person"),
        ("split", {"faces": "1"}, "faces of one person"),
        ("split", {"faces": [999]}, "faces of one person"),
        ("forget", {}, "name, merge and split"),
        ("name", [], "JSON object"),
    ],
)
def test_what_cannot_be_done_is_named_and_changes_nothing(
    server, result, action, body, says
) -> None:
    before = (result / "people.json").read_bytes()
    status, _, text = ask(server, action, body)
    assert status == 400 and says in text.decode()
    assert (result / "people.json").read_bytes() == before


def test_one_name_is_one_person(server, result) -> None:
    assert ask(server, "name", {"person": 0, "name": "Ann"})[0] == 204
    status, _, text = ask(server, "name", {"person": 1, "name": "Ann"})
    assert status == 400 and b"the same" in text
    assert ask(server, "name", {"person": 0, "name": "Ann"})[0] == 204


def test_without_a_result_nothing_is_served(tmp_path) -> None:
    with pytest.raises(DataError, match="cluster a folder first"):
        PileServer(tmp_path)


# In a browser


def shown(address: str, profile: Path) -> str:
    """The page's elements after its scripts ran."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    words += [f"--user-data-dir={profile}", "--dump-dom", address]
    home = {**os.environ, "HOME": str(profile)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=240, env=home)
    return done.stdout


def test_the_report_opens_in_a_browser(result, tmp_path) -> None:
    page = result / "report.html"
    assert not re.search(r'(src|href)="(?!data:)', page.read_text())
    dom = shown(page.as_uri(), tmp_path / "profile")
    assert f"<h1>{PEOPLE} people in {PEOPLE * 4} faces</h1>" in dom
    assert dom.count("<section") == PEOPLE
    assert dom.count('src="data:image/jpeg;base64,') == dom.count("<circle") == PEOPLE * 4
    legend = dom[dom.index('<ul id="legend"') : dom.index("</ul>")]
    assert legend.count("<li>") == legend.count("background: rgb(") == PEOPLE
    assert "<form" not in dom
    assert "#1 " in dom and "p0 & 0.png#0" in html.unescape(dom)
    links = re.findall(r'<a href="([^"]+)"', dom)
    assert len(links) == PEOPLE * 4
    assert all((result / unquote(html.unescape(link))).exists() for link in links)


def test_names_reach_the_browser_as_text(server, result, tmp_path) -> None:
    assert ask(server, "name", {"person": 0, "name": EVIL})[0] == 204
    for address in (server.address, (result / "report.html").as_uri()):
        dom = shown(address, tmp_path / "profile")
        assert f"<h2>{html.escape(EVIL, quote=False)}<small>" in dom
        assert "<title>People</title>" in dom
        assert dom.count("<form") == (PEOPLE if address == server.address else 0)
