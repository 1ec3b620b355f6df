// Now: the cameras, and who is before them.
import { get, url } from "./api.js";
import { button, el, nothing } from "./ui.js";

const STILL = 2000; // ms between stills of a camera
const BOXES = 700; // ms between looks at who is there
const live = new Set();
let timers = [];

export async function draw(root) {
  const { cameras } = await get("cameras");
  close();
  const cards = cameras.map(card);
  root.replaceChildren(
    el("h1", {}, "Now"),
    cameras.length
      ? el("div", { className: "grid wide" }, cards)
      : el("p", {}, "No camera yet. ", el("a", { href: "#settings" }, "Add the first one.")),
  );
}

export function heard(event, refresh) {
  if (event.event.startsWith("camera_")) refresh();
}

export function close() {
  timers.forEach(clearInterval);
  timers = [];
}

function card(camera) {
  const path = `cameras/${encodeURIComponent(camera.name)}`;
  const image = el("img", { alt: `Picture of ${camera.name}` });
  const boxes = el("div", {});
  const there = el("p", {}, "");
  const state = el("p", { className: "soft" });
  const view = el("div", { className: "view" }, image, boxes);
  const toggle = button("", () => { live.has(camera.name) ? live.delete(camera.name) : live.add(camera.name); look(); label(); });
  const label = () => (toggle.textContent = live.has(camera.name) ? "Stills" : "Moving picture");
  const look = () => {
    if (document.hidden) return;
    const moving = url(`${path}/preview.mjpeg`);
    if (live.has(camera.name)) { if (image.src !== moving) image.src = moving; }
    else image.src = `${url(`${path}/snapshot.jpg`)}?${Date.now()}`;
  };
  image.onerror = () => (image.hidden = true);
  image.onload = () => (image.hidden = false);
  const ask = async () => {
    if (document.hidden) return;
    const now = await get(`${path}/state`).catch(() => null);
    if (!now) return;
    const running = now.state === "running";
    state.textContent = running ? `${now.fps.toFixed(0)} frames/s` : now.error ?? now.state;
    state.className = running ? "soft" : "warn";
    there.replaceChildren(...who(now.faces));
    boxes.replaceChildren(...(now.size ? now.faces.map((face) => frame(face, now.size)) : []));
  };
  label();
  look();
  ask();
  timers.push(setInterval(() => live.has(camera.name) || look(), STILL), setInterval(ask, BOXES));
  return el("section", { className: "card" }, el("h2", {}, camera.name), view, there, state, el("div", { className: "bar" }, toggle));
}

function who(faces) {
  if (!faces.length) return ["Nobody"];
  return faces.flatMap((face, i) => [i ? ", " : "", el("bdi", { className: face.kind === "known" ? "name" : "" }, title(face))]);
}

const title = (face) => face.name ?? face.status.replace("_", " ");

function frame(face, [width, height]) {
  const [x1, y1, x2, y2] = face.box;
  const box = el("div", { className: face.kind === "known" ? "box known" : "box" }, el("span", {}, title(face)));
  // The picture is fitted into 16:9.
  const scale = Math.min(16 / width, 9 / height);
  const left = (16 - width * scale) / 2;
  const top = (9 - height * scale) / 2;
  Object.assign(box.style, {
    left: `${((left + x1 * scale) / 16) * 100}%`,
    top: `${((top + y1 * scale) / 9) * 100}%`,
    width: `${(((x2 - x1) * scale) / 16) * 100}%`,
    height: `${(((y2 - y1) * scale) / 9) * 100}%`,
  });
  return box;
}
