// Today: a card per visit, newest first, as /v1/visits joins them.
import { get, send } from "./api.js";
import { button, clock, closeDialog, counted, dialog, el, face, nameField, nothing, question, toast, when } from "./ui.js";

export async function draw(root, refresh) {
  const since = new Date(new Date().setHours(0, 0, 0, 0)).toISOString();
  const { visits } = await get(`visits?since=${encodeURIComponent(since)}&limit=1000`);
  root.replaceChildren(
    el("h1", {}, "Today"),
    visits.length ? el("div", { className: "grid" }, visits.map((visit) => card(visit, refresh))) : nothing("Nobody was there today."),
  );
}

export const heard = (event, refresh) => refresh();

function card(visit, refresh) {
  const nobody = visit.person_id === null;
  const likely = visit.sum?.person_id && visit.sum.name;
  return el(
    "section",
    { className: "card" },
    el(
      "div",
      { className: "row" },
      face(visit.images.length ? `sightings/${visit.images.at(-1)}/image` : null, ""),
      el(
        "div",
        {},
        el("p", { className: "name" }, visit.name ?? "unknown"),
        el("p", { className: "soft" }, `${visit.cameras.join(", ")} · ${when(visit.first)} – ${clock(visit.last)}`),
        visit.sightings.length > 1 && el("p", { className: "soft" }, counted(visit.sightings.length, "sighting")),
      ),
    ),
    likely && question(likely, "all its faces together say so", () => agreed(visit, refresh), () => denied(visit, visit.sum, refresh)),
    el(
      "div",
      { className: "bar" },
      nobody
        ? button("Name", () => naming(visit.sightings, refresh))
        : button(visit.kind === "stranger" ? "Somebody else" : "Not them", () => denied(visit, visit, refresh)),
      visit.kind === "stranger" && el("a", { href: "#strangers" }, "Name"),
    ),
  );
}

export function naming(sightings, refresh) {
  const field = nameField("Name", "", async (name) => {
    const answer = await send("POST", "people/name", { name, sightings });
    closeDialog();
    named(answer, refresh);
  });
  dialog("Who is this?", el("p", { className: "bar" }, sightings.slice(0, 4).map((id) => face(`sightings/${id}/image`, "", true))), field);
  field.input.focus();
}

function named({ person, changes }, refresh) {
  toast(`Named ${counted(person.visits.count, "visit")} ${person.name}`, changes, refresh);
  refresh();
}

async function agreed({ person_id, sightings, sum: { name } }, refresh) {
  named(await (person_id === null
    ? send("POST", "people/name", { name, sightings })
    : send("PATCH", `people/${person_id}`, { name })), refresh);
}

// The faces of a visit are not whom they were taken for, or, of a numbered stranger, could be.
async function denied(visit, who, refresh) {
  const other = visit.person_id !== null && visit.person_id !== who.person_id;
  const body = other ? { person: visit.person_id } : { sightings: visit.sightings };
  const { changes } = await send("POST", `people/${who.person_id}/not-this`, body);
  toast(`Not ${who.name}`, changes, refresh);
  refresh();
}
