// Settings: cameras, the threshold and what it promises, how long things are kept, what was changed.
import { get, remove, send } from "./api.js";
import { button, confirmed, el, nothing, run, toast, when } from "./ui.js";

export async function draw(root, refresh) {
  const [{ cameras }, limits, system, { changes }] = await Promise.all([
    get("cameras"), get("calibration"), get("system"), get("history?limit=15"),
  ]);
  root.replaceChildren(
    el("h1", {}, "Settings"),
    el("section", { className: "card" }, el("h2", {}, "Cameras"), cameraTable(cameras, refresh), adding(refresh)),
    el("h3", {}), el("section", { className: "card" }, el("h2", {}, "How sure a name is"), ...promise(limits, refresh)),
    el("h3", {}), el("section", { className: "card" }, el("h2", {}, "How long things are kept"), kept(system)),
    el("h3", {}), el("section", { className: "card" }, el("h2", {}, "What was changed"), history(changes, refresh)),
    el("p", { className: "soft" }, `edgeface ${system.version} · ${system.model.name} · running since ${when(system.started)}`),
  );
}

export function heard(event, refresh) {
  if (!["seen", "identified", "changed", "lost"].includes(event.event)) refresh();
}

function cameraTable(cameras, refresh) {
  if (!cameras.length) return nothing("None yet: add the first one.");
  return el("table", {}, el("tbody", {}, cameras.map((camera) => el("tr", {},
    el("td", { className: "name" }, camera.name),
    el("td", { className: "soft" }, camera.source),
    el("td", { className: camera.state === "running" ? "good" : "warn" }, camera.state, camera.error ? `: ${camera.error}` : ""),
    el("td", {}, camera.in_settings
      ? el("span", { className: "soft" }, "in the settings file")
      : button("Remove", () => removed(camera, refresh), "danger"))))));
}

async function removed(camera, refresh) {
  if (!(await confirmed(`Remove ${camera.name}? What it saw stays.`, "Remove"))) return;
  await run(async () => {
    await remove(`cameras/${encodeURIComponent(camera.name)}`);
    refresh();
  });
}

function adding(refresh) {
  const name = el("input", { type: "text", placeholder: "door", maxLength: 64, ariaLabel: "Name of the camera" });
  const source = el("input", { type: "text", placeholder: "rtsp://user:password@camera/stream, cam0, or a file", ariaLabel: "Address of the camera" });
  const said = el("p", { role: "status" });
  const add = button("Add and test", async () => {
    const camera = await send("POST", "cameras", { name: name.value.trim(), source: source.value.trim() });
    said.textContent = "Connecting …";
    for (let tries = 0; tries < 20; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      const now = await get(`cameras/${encodeURIComponent(camera.name)}`);
      if (now.state !== "connecting" || now.error) {
        const good = now.state === "running" || now.state === "ended";
        said.className = good ? "good" : "bad";
        said.textContent = good ? `${now.name} gives pictures` : `${now.name}: ${now.error ?? now.state}`;
        break;
      }
    }
    name.value = source.value = "";
    refresh();
  }, "main");
  return el("div", {}, el("div", { className: "bar" }, name, source, add), said);
}

const percent = (rate) => `${(100 * rate).toPrecision(2)} %`;

function promise(limits, refresh) {
  const own = limits.calibration;
  const rate = el("input", { type: "number", min: 0.01, max: 50, step: 0.01, value: own ? 100 * own.fpir : 1, ariaLabel: "Strangers named, percent" });
  const rows = [el("p", {}, `A face is named from a similarity of ${limits.known.value.toFixed(3)} on (${limits.known.origin}), with ${limits.people} known people.`)];
  if (own) {
    rows.push(el("p", {}, `Promised: ${percent(own.fpir)} of strangers get a name (${percent(own.measured.low)} – ${percent(own.measured.high)}).`));
  }
  const seen = limits.outcome;
  if (seen) {
    rows.push(el("p", { className: seen.warning ? "bad" : "soft" }, `Seen: ${seen.wrong} of ${seen.trials}${seen.warning ? ` – ${seen.warning} than was promised` : ""}.`));
  }
  rows.push(el("div", { className: "bar" }, el("label", {}, "Strangers that may be named ", rate, "%"), button("Set", async () => {
    await send("POST", "calibration", { fpir: Number(rate.value) / 100 });
    toast("The threshold is set");
    refresh();
  })));
  return rows;
}

function kept(system) {
  const days = (n) => (n === null ? "for ever" : `${n} days`);
  const { strangers, known, crops, events } = system.expiry;
  return el("p", {}, `Strangers ${days(strangers)}, known people's sightings ${days(known)}, pictures ${system.crops ? days(crops) : "never"}, the log ${days(events)}. Set them under [expiry] in the settings file.`);
}

function history(changes, refresh) {
  if (!changes.length) return nothing("Nothing yet.");
  return el("table", {}, el("tbody", {}, changes.map((change) => el("tr", {},
    el("td", {}, change.action.replace("_", " ")),
    el("td", { className: "soft" }, when(change.ts)),
    el("td", {}, change.undone ? "taken back" : button("Undo", async () => {
      await send("POST", `history/${change.id}/undo`, {});
      refresh();
    }))))));
}
