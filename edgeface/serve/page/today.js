// Today: a card per visit, newest first.
import { get, send } from "./api.js";
import { button, clock, closeDialog, counted, dialog, el, face, nameField, nothing, toast, when } from "./ui.js";

const TOGETHER = 10 * 60e3; // ms between sightings of one person that are one visit

export async function draw(root, refresh) {
  const since = new Date(new Date().setHours(0, 0, 0, 0)).toISOString();
  const { sightings } = await get(`sightings?since=${encodeURIComponent(since)}&limit=200`);
  const cards = visits(sightings).map((visit) => card(visit, refresh));
  root.replaceChildren(
    el("h1", {}, "Today"),
    cards.length ? el("div", { className: "grid" }, cards) : nothing("Nobody was there today."),
  );
}

export const heard = (event, refresh) => refresh();

export function visits(rows) {
  const found = [];
  const open = new Map();
  for (const row of rows) { // newest first
    const visit = row.person_id === null ? null : open.get(row.person_id);
    if (visit && new Date(visit.first) - new Date(row.last) <= TOGETHER) {
      visit.rows.push(row);
      visit.cameras.add(row.camera);
      if (row.first < visit.first) visit.first = row.first;
    } else {
      const begun = { rows: [row], cameras: new Set([row.camera]), first: row.first, last: row.last, person: row };
      found.push(begun);
      if (row.person_id !== null) open.set(row.person_id, begun);
    }
  }
  return found;
}

function card(visit, refresh) {
  const { person, rows } = visit;
  const pictured = rows.find((row) => row.image);
  const name = person.name ?? person.status.replace("_", " ");
  return el(
    "section",
    { className: "card" },
    el(
      "div",
      { className: "row" },
      face(pictured && `sightings/${pictured.id}/image`, ""),
      el(
        "div",
        {},
        el("p", { className: "name" }, name),
        el("p", { className: "soft" }, `${[...visit.cameras].join(", ")} · ${when(visit.first)} – ${clock(visit.last)}`),
        rows.length > 1 && el("p", { className: "soft" }, counted(rows.length, "sighting")),
      ),
    ),
    el(
      "div",
      { className: "bar" },
      person.person_id === null
        ? button("Name", () => naming(rows.map((row) => row.id), refresh))
        : button(person.kind === "stranger" ? "Somebody else" : "Not them", () => denied(person, rows, refresh)),
      person.kind === "stranger" && el("a", { href: "#strangers" }, "Name"),
    ),
  );
}

export function naming(sightings, refresh) {
  const field = nameField("Name", "", async (name) => {
    const { person, changes } = await send("POST", "people/name", { name, sightings });
    closeDialog();
    toast(`Named ${counted(person.visits.count, "visit")} ${person.name}`, changes, refresh);
    refresh();
  });
  dialog("Who is this?", el("p", { className: "bar" }, sightings.slice(0, 4).map((id) => face(`sightings/${id}/image`, "", true))), field);
  field.input.focus();
}

async function denied(person, rows, refresh) {
  const changes = [];
  for (const row of rows) {
    const answer = await send("POST", `people/${person.person_id}/not-this`, { sighting: row.id });
    changes.push(...answer.changes);
  }
  toast(`Not ${person.name}`, changes, refresh);
  refresh();
}
