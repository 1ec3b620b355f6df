// Screens, and the stream of events that keeps them true.
import { listen, get } from "./api.js";
import { el } from "./ui.js";

const screens = { now: "./now.js", today: "./today.js", people: "./people.js", strangers: "./strangers.js", settings: "./settings.js" };
const main = document.getElementById("main");
const link = document.getElementById("link");
let screen = null;
let due = null;

async function open() {
  const name = location.hash.slice(1).split("/")[0];
  const known = name in screens ? name : "now";
  document.querySelectorAll("nav a").forEach((anchor) => {
    if (anchor.hash === `#${known}`) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  });
  screen?.close?.();
  const module = await import(screens[known]);
  const root = el("div", {});
  main.replaceChildren(root);
  screen = { ...module, root };
  await draw();
}

async function draw() {
  const current = screen;
  if (!current) return;
  try {
    await current.draw(current.root, refresh);
  } catch (error) {
    if (current !== screen) return;
    const text = error.status === 401
      ? "Open the link that `edgeface serve` printed: it holds the key to this page."
      : error.message;
    current.root.replaceChildren(el("p", { className: "bad" }, text));
  }
}

// Many events come at once; the screen is drawn at most every half second, and not under somebody's
// hands.
export function refresh() {
  if (due) return;
  due = setTimeout(() => {
    due = null;
    const typing = document.activeElement?.matches?.("main input, main select");
    if (typing) due = setTimeout(() => { due = null; refresh(); }, 1500);
    else draw();
  }, 400);
}

addEventListener("hashchange", () => open().then(() => { main.focus({ preventScroll: true }); scrollTo(0, 0); }));
let lost = true; // until the stream begins, what happens after the first drawing is not heard
listen(
  (event) => {
    document.body.dataset.event = event.id;
    screen?.heard?.(event, refresh);
  },
  refresh,
  (there) => {
    link.textContent = there ? "" : "no connection, trying again";
    if (there && lost) draw();
    lost = !there;
  },
);
get("system").then((system) => (document.body.dataset.version = system.version), () => {});
open();
