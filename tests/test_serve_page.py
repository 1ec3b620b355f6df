"""The page in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from serving import READ, TOKEN, filed, listening  # noqa: E402
from test_sightings import event  # noqa: E402

from edgeface.describe import Describer  # noqa: E402
from edgeface.gallery import Kind  # noqa: E402
from edgeface.serve.app import PAGE, application  # noqa: E402
from edgeface.serve.guard import Access  # noqa: E402
from edgeface.serve.service import Service  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
PATIENCE = 20_000  # ms
PICTURES = os.environ.get("EDGEFACE_SCREENS")  # a folder that gets a picture of every screen
MOST = 60_000  # bytes of the page


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def service(tmp_path: Path, describer: Describer) -> Iterator[Service]:
    with filed(tmp_path, describer) as made:
        yield made


@contextmanager
def served(service: Service, port: int = 0, prefix: str = "") -> Iterator[str]:
    """The service behind a proxy that serves it below `prefix`; its address."""
    app = application(service, Access(TOKEN, READ, ()))

    async def proxied(scope, receive, send):
        if scope["type"] == "http":
            assert scope["path"].startswith(prefix)
            scope = scope | {"path": scope["path"][len(prefix) :]}
        await app(scope, receive, send)

    with listening(service, proxied, port) as address:
        yield f"{address}{prefix}/"


class Visitor:
    """A browser window, and everything in it that should not be."""

    def __init__(self, browser, address: str, width: int = 1100, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self.elsewhere: list[str] = []
        origin = "/".join(address.split("/")[:3])
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._said)
        self.page.on(
            "request",
            lambda r: (
                None
                if r.url.startswith((origin, "data:", "blob:"))
                else self.elsewhere.append(r.url)
            ),
        )
        self.address = address
        self.page.goto(f"{address}?token={Access(TOKEN, READ, ()).link}")

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def open(self, screen: str):
        self.page.goto(f"{self.address}#{screen}")
        self.page.wait_for_selector(f"nav a[aria-current][href='#{screen}']")
        self.page.wait_for_selector("main h1")
        return self.page

    def picture(self, name: str) -> None:
        if PICTURES:
            self.page.wait_for_timeout(400)
            self.page.screenshot(path=f"{PICTURES}/{name}.jpg", type="jpeg", quality=70)

    def close(self) -> None:
        self.context.close()
        assert self.faults == [] and self.elsewhere == []


@pytest.fixture
def visit(browser, service):
    """Opens windows on the service; each must end without a fault."""
    windows: list[Visitor] = []
    with served(service) as address:

        def open_(**options) -> Visitor:
            windows.append(Visitor(browser, address, **options))
            return windows[-1]

        yield open_
        for window in windows:
            window.close()


def portrait(seed: int) -> bytes:
    """A drawn head as JPEG."""
    rng = np.random.default_rng(seed)
    ground, skin = rng.integers(120, 230, 3).tolist(), (150 + seed % 60, 180 + seed % 40, 225)
    image = np.full((160, 140, 3), ground, np.uint8)
    hair = rng.integers(20, 110, 3).tolist()
    cv2.ellipse(image, (70, 170), (62, 50), 0, 180, 360, rng.integers(60, 200, 3).tolist(), -1)
    cv2.ellipse(image, (70, 72), (40, 52), 0, 0, 360, hair, -1)
    cv2.ellipse(image, (70, 84), (33, 42), 0, 0, 360, skin, -1)
    for x in (57, 83):
        cv2.circle(image, (x, 78), 4, (40, 40, 40), -1)
    cv2.ellipse(image, (70, 105), (12, 6), 0, 0, 180, (60, 60, 160), 2)
    return cv2.imencode(".jpg", cv2.GaussianBlur(image, (3, 3), 0))[1].tobytes()


def row_of(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(128).astype(np.float32)
    return row / np.linalg.norm(row)


def like(row: np.ndarray, seed: int, cosine: float) -> np.ndarray:
    other = row_of(seed)
    other = other - (other @ row) * row
    return (cosine * row + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)).astype("f4")


def seen(
    service: Service, number: int, who=None, row=None, minutes: float = 0, camera="door"
) -> int:
    at = datetime.now(UTC) - timedelta(minutes=minutes)
    told, _ = service.store.record(event(number, number, "seen", who, row, at, camera))
    service.store.record(
        event(number + 10**6, number, "lost", who, row, at + timedelta(seconds=8), camera)
    )
    service.store.keep_crop(told, portrait(number if who is None else who.id), 0.7, at)
    return told


def stranger(service: Service, seed: int, visits: int = 3):
    """A stranger who was there some times."""
    who = service.gallery.add_stranger(row_of(seed))
    for n in range(visits):
        seen(
            service,
            100 * seed + n,
            who,
            like(row_of(seed), 500 + n, 0.9),
            30 * n,
            ("door", "yard")[n % 2],
        )
    return who


def names(service: Service) -> set[str | None]:
    return {row.name for row in service.store.rows(limit=500).rows}


def until(true) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_stranger_is_named_in_two_clicks_and_it_is_taken_back(service, visit) -> None:
    stranger(service, 1, 7)
    ben = service.gallery.enroll("Ben", [like(row_of(1), 50, 0.3)])
    window = visit()
    page = window.open("strangers")
    assert "7 visits · door, yard" in page.inner_text("section")
    page.get_by_role("button", name="Name stranger-1").click()  # one
    yes = page.get_by_role("group", name="Ben?").get_by_role("button", name="Yes")
    yes.wait_for()
    window.picture("strangers")
    began = time.monotonic()
    yes.click()  # two
    page.get_by_text("Named 7 visits Ben").wait_for()
    print(f"named after {1e3 * (time.monotonic() - began):.0f} ms")
    assert names(service) == {"Ben"}
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("Taken back").wait_for()
    assert names(service) == {"stranger-1"}
    page.get_by_text("stranger-1").first.wait_for()
    assert service.gallery.count(Kind.KNOWN) == 1 and ben.id


def test_no_is_never_asked_again_until_it_is_taken_back(service, visit) -> None:
    who = stranger(service, 1, 2)
    limit = service.identifier.threshold.value
    ben = service.gallery.enroll("Ben", [like(row_of(1), 50, limit - 0.04)])
    service.gallery.enroll("Cleo", [like(row_of(1), 51, limit - 0.2)])
    window = visit()
    page = window.open("strangers")
    page.get_by_role("button", name="Name stranger-1").click()
    asked = page.locator(".ask")
    asked.get_by_text("Ben").wait_for()
    page.get_by_role("button", name="Cleo").wait_for()  # too far to be asked about
    window.picture("question")
    asked.get_by_role("button", name="No", exact=True).click()
    page.get_by_text("Not Ben").wait_for()
    asked.wait_for(state="detached")
    assert service.gallery.different_from(who.id) == {ben.id}
    page = window.open("strangers")
    page.get_by_role("button", name="Name stranger-1").click()
    page.get_by_role("button", name="Cleo").wait_for()
    assert asked.count() == 0 and page.get_by_role("button", name="Ben").count() == 0
    page.evaluate("document.activeElement.blur()")
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("Taken back").wait_for()
    asked.get_by_role("button", name="Yes").click()
    page.get_by_text("Named 2 visits Ben").wait_for()
    assert names(service) == {"Ben"}


def test_what_all_faces_of_a_visit_say_is_asked(service, visit) -> None:
    limits = service.identifier.thresholds()
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((128, 5)))[0].T.astype("f4")
    ann = service.gallery.enroll("Ann", axes[:1])
    near, alike = limits.known.value - 0.04, limits.stranger.value + 0.05
    rest, own = np.sqrt(alike - near**2), np.sqrt(1 - alike)
    for n, camera in enumerate(("door", "yard", "hall")):
        row = near * axes[0] + rest * axes[1] + own * axes[2 + n]
        seen(service, 10 + n, None, row.astype("f4"), 3 - n, camera)
    page = visit().open("today")
    page.get_by_text("door, yard, hall").wait_for()
    assert page.locator("main section").count() == 1
    page.locator(".ask").get_by_text("Ann").wait_for()
    page.locator(".ask").get_by_role("button", name="No", exact=True).click()
    page.get_by_text("Not Ann").wait_for()
    page.get_by_text("stranger-1").wait_for()
    assert page.locator(".ask").count() == 0
    page.get_by_role("button", name="Undo").click()
    page.locator(".ask").get_by_role("button", name="Yes").click()
    page.get_by_text("Named 3 visits Ann").wait_for()
    assert names(service) == {"Ann"} and ann.id


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "ŁŁ" * 100,
        "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
        "\U0001f469\U0001f3fd\u200d\U0001f680 Zoë",
        'O\'Neil "Q" & Söhne',
    ],
    ids=["markup", "long", "right-to-left", "emoji", "quotes"],
)
def test_any_name_is_text(service, visit, name) -> None:
    stranger(service, 2, 2)
    window = visit(width=320)
    page = window.open("strangers")
    page.get_by_role("button", name="Name stranger-1").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.keyboard.press("Enter")
    until(lambda: names(service) == {name})
    for screen in ("people", "today"):
        page = window.open(screen)
        page.locator("main .name", has_text=name).first.wait_for()
        assert page.locator("main img[src='x']").count() == 0
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{screen} is {wide} px too wide"


def test_merge_split_rename_and_forget(service, visit) -> None:
    for seed, name in ((3, "Ann"), (4, "Anne"), (5, "Anna")):
        who = service.gallery.enroll(name, [row_of(seed)], crops=[portrait(seed)])
        seen(service, seed, who, row_of(seed))
    window = visit()
    page = window.open("people")
    for name in ("Ann", "Anne", "Anna"):
        page.get_by_label(f"Choose {name}", exact=True).check()
    page.get_by_role("button", name="Merge the chosen").click()
    page.get_by_text("Merged 3 people").wait_for()
    (name,) = names(service)
    page.get_by_text("3 visits").wait_for()
    page.get_by_role("button", name=name).last.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("checkbox").first.check()
    window.picture("person")
    dialog.get_by_role("button", name="Chosen sightings are somebody else").click()
    page.get_by_text("Parted 1 sighting").wait_for()
    assert len(names(service)) == 2
    page.get_by_role("button", name=name).last.click()
    dialog.get_by_label("Rename").fill("Annika")
    page.keyboard.press("Enter")
    page.get_by_text("Now called Annika").wait_for()
    page.get_by_role("button", name="Annika").last.click()
    dialog.get_by_role("button", name="Forget for good").click()
    page.get_by_text("This cannot be undone").wait_for()
    page.get_by_role("button", name="Forget for good").click()
    page.get_by_text("Forgotten").wait_for()
    assert "Annika" not in names(service)


def test_the_keyboard_is_enough(service, visit) -> None:
    stranger(service, 6, 2)
    page = visit().open("now")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Strangers":
            break
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Name stranger-1").wait_for()
    for _ in range(20):
        page.keyboard.press("Tab")
        if "stranger-1" in page.evaluate("document.activeElement.textContent"):
            break
    page.keyboard.press("Enter")
    until(lambda: page.evaluate("document.activeElement.ariaLabel === 'Name'"))
    page.keyboard.type("Cleo")
    page.keyboard.press("Enter")
    until(lambda: names(service) == {"Cleo"})


def test_a_fault_of_the_user_is_said(service, visit) -> None:
    window = visit()
    page = window.open("settings")
    page.get_by_label("Name of the camera").fill("a/b")
    page.get_by_label("Address of the camera").fill("nothing.mp4")
    with page.expect_response(lambda r: r.request.method == "POST") as answer:
        page.get_by_role("button", name="Add and test").click()
    assert answer.value.status == 400
    page.locator("#toast").get_by_text("camera").wait_for()
    window.faults = [f for f in window.faults if "status of 400" not in f]


@pytest.mark.parametrize("screen", ["now", "today", "people", "strangers", "settings"])
def test_every_screen_fits_320_pixels_and_works_in_the_dark(service, visit, screen) -> None:
    fill(service)
    window = visit(width=320, dark=True)
    page = window.open(screen)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    window.picture(f"{screen}-narrow")


def fill(service: Service) -> None:
    """A day with everybody in it."""
    ann = service.gallery.enroll("Ann Archer", [row_of(7)], crops=[portrait(7)])
    omar = service.gallery.enroll("عمر", [row_of(8)], crops=[portrait(8)])
    service.store.people.group(ann.id, "family")
    for n, who in enumerate((ann, omar, ann)):
        seen(service, 700 + n, who, row_of(7 + n % 2), 20 * n)
    stranger(service, 9, 4)
    stranger(service, 10, 2)
    seen(service, 790, None, row_of(99), 5)


def test_the_screens_under_a_prefix(service, browser, sample) -> None:
    fill(service)
    from edgeface.cameras import CameraSpec

    service.cameras.add(CameraSpec("stage", str(sample / "clip.mp4"), repeat=True))
    with served(service, prefix="/house/edgeface") as address:
        window = Visitor(browser, address)
        page = window.open("now")
        page.wait_for_selector("main .view img[src*='snapshot']")
        page.wait_for_selector("main .box", timeout=PATIENCE)
        window.picture("now")
        for screen in ("today", "people", "settings"):
            window.open(screen)
            window.picture(screen)
        assert page.locator("nav a").count() == 5
        window.close()


def test_a_killed_server_comes_back_and_nothing_is_missed(service, browser) -> None:
    with served(service) as address:
        port = int(address.split(":")[2].strip("/"))
        window = Visitor(browser, address)
        page = window.open("today")
        seen(service, 1, None, row_of(1))
        page.locator("main section").first.wait_for()
        page.evaluate(
            "window.ids = []; new MutationObserver(() => ids.push(document.body.dataset.event))"
            ".observe(document.body, {attributes: true})"
        )
    page.get_by_text("no connection").wait_for()
    for n in range(2, 7):
        seen(service, n, None, row_of(n))
    with served(service, port=port):
        until(lambda: page.evaluate("document.querySelectorAll('main section').length === 6"))
        page.get_by_text("no connection").wait_for(state="hidden")
        last = service.store.newest()
        until(lambda: page.evaluate(f"document.body.dataset.event === '{last}'"))
        window.faults = [f for f in window.faults if "ERR_" not in f]  # that it was away
        window.close()


def test_ten_thousand_events_do_not_grow_the_page(service, visit) -> None:
    window = visit()
    page = window.open("settings")
    session = window.context.new_cdp_session(page)

    def heap() -> float:
        session.send("HeapProfiler.collectGarbage")
        return page.evaluate("performance.memory ? performance.memory.usedJSHeapSize : 0") / 1e6

    seen(service, 1, None, row_of(1))
    before = heap()
    with service.store.file.write() as execute:
        for n in range(10_000):
            body = f'{{"id": "z-{n:08}", "event": "seen", "ts": "2026-03-01T00:00:00Z"}}'.encode()
            execute("INSERT INTO event (id, at, body) VALUES (?, 0, ?)", (f"z-{n:08}", body))
    seen(service, 2, None, row_of(2))
    last = service.store.newest()
    until(lambda: page.evaluate(f"document.body.dataset.event === '{last}'"))
    assert heap() < before + 5


def test_the_page_is_small_and_soon_there(service, visit) -> None:
    assert sum(file.stat().st_size for file in PAGE.iterdir()) <= MOST
    page = visit().page
    page.wait_for_selector("main h1")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    print(f"first paint after {paint:.0f} ms")
    assert paint < 5000


def test_without_the_link_nothing_is_shown(service, browser) -> None:
    seen(service, 1, None, row_of(1))
    with served(service) as address:
        page = browser.new_context().new_page()
        page.goto(address)
        page.get_by_text("Open the link").wait_for(timeout=PATIENCE)
        assert page.locator("main img").count() == 0
        page.context.close()
