// Strangers: people without a name, most visits first. Naming one takes two clicks.
import { get, remove, send } from "./api.js";
import { about, forgotten, opened } from "./people.js";
import { naming } from "./today.js";
import { button, counted, el, face, nameField, nothing, question, toast } from "./ui.js";

let open = null; // the card whose name line is open

export async function draw(root, refresh) {
  const [{ people }, { sightings }] = await Promise.all([get("people?kind=stranger"), get("sightings?kind=unknown&limit=24")]);
  const cards = await Promise.all(people.map((person) => card(person, refresh)));
  const nobodies = sightings.filter((row) => row.image);
  root.replaceChildren(
    el("h1", {}, "Strangers"),
    cards.length ? el("div", { className: "grid" }, cards) : nothing("No strangers were met."),
    el("h3", {}, nobodies.length ? "Seen once, without a number" : ""),
    el("div", { className: "bar" }, nobodies.map((row) => button(face(`sightings/${row.id}/image`, `Name this face, ${row.camera}`, true), () => naming([row.id], refresh)))),
  );
}

export function heard(event, refresh) {
  if (event.event !== "seen") refresh();
}

export function close() {
  open = null;
}

async function card(person, refresh) {
  const [best, ...others] = person.visits.images;
  const line = el("div", {});
  const section = el("section", { className: "card" });
  const show = async () => {
    open = person.id;
    const whole = await get(`people/${person.id}`);
    const alike = whole.resembles.filter((other) => !other.different);
    const near = alike[0]?.near ? alike.shift() : null;
    const field = nameField("Name", "", (name) => named(person, name, refresh));
    line.replaceChildren(
      near ? question(near.name, scored(near), () => named(person, near.name, refresh), () => denied(person, near, refresh)) : "",
      field,
      el("div", { className: "bar" }, alike.map((other) =>
        button(el("span", {}, el("bdi", { className: "name" }, other.name), ` ${scored(other)}`), () => named(person, other.name, refresh)))),
    );
    field.input.focus();
  };
  section.append(
    button(el("div", { className: "row" },
      face(best === undefined ? null : `sightings/${best}/image`, `Name ${person.name}`),
      el("div", {}, el("p", { className: "name" }, person.name), el("p", { className: "soft" }, about(person)))), show, "plain"),
    el("div", { className: "bar" }, others.slice(0, 3).map((id) => face(`sightings/${id}/image`, "", true))),
    line,
    el("div", { className: "bar" },
      button("Ignore", () => changed(person, { ignored: true }, refresh)),
      button("Not a face", () => unwanted(person, refresh)),
      button("Look closer", () => opened(person.id, refresh)),
      button("Forget", () => forgotten(person, refresh), "danger")),
  );
  if (open === person.id) await show();
  return section;
}

async function named(person, name, refresh) {
  open = null;
  const answer = await send("PATCH", `people/${person.id}`, { name });
  document.activeElement?.blur?.();
  toast(`Named ${counted(answer.person.visits.count, "visit")} ${answer.person.name}`, answer.changes, refresh);
  refresh();
}

const scored = (other) => `${other.similarity.toFixed(2)}, needs ${other.threshold.toFixed(2)}`;

async function denied(person, other, refresh) {
  const answer = await send("POST", `people/${other.id}/not-this`, { person: person.id });
  toast(`Not ${other.name}`, answer.changes, refresh);
  refresh();
}

async function changed(person, body, refresh) {
  const answer = await send("PATCH", `people/${person.id}`, body);
  toast(`${answer.person.name} is ${answer.person.kind}`, answer.changes, refresh);
  refresh();
}

async function unwanted(person, refresh) {
  await remove(`people/${person.id}`);
  toast("Erased, as no face");
  refresh();
}
