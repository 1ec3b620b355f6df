// People: who is known, what they are recognised by, and what can be done about it.
import { get, remove, send, upload } from "./api.js";
import { button, closeDialog, confirmed, counted, dialog, el, face, nameField, nothing, run, toast, when } from "./ui.js";

const chosen = new Set();

export async function draw(root, refresh) {
  const [known, ignored] = await Promise.all([get("people?kind=known"), get("people?kind=ignored")]);
  const people = [...known.people, ...ignored.people];
  for (const id of chosen) if (!people.some((person) => person.id === id)) chosen.delete(id);
  const groups = [...new Set(people.map((person) => person.group ?? ""))].sort();
  const merge = button("Merge the chosen", () => merged(people, refresh));
  merge.disabled = chosen.size < 2;
  root.replaceChildren(
    el("h1", {}, "People"),
    el("div", { className: "bar" }, button("Add somebody", () => adding(refresh), "main"), people.length > 1 && merge),
    ...groups.map((group) => [
      el("h3", {}, group || (groups.length > 1 ? "No group" : "")),
      el("div", { className: "grid" }, people.filter((person) => (person.group ?? "") === group).map((person) => card(person, merge, refresh))),
    ]).flat(),
    people.length ? "" : nothing("Nobody has a name yet. Strangers whom a camera sees can be named, or add pictures of somebody."),
  );
}

export function heard(event, refresh) {
  if (event.event.startsWith("person_") || event.event === "change_undone" || event.event === "lost") refresh();
}

const pictureOf = (person) => person.visits.images.length ? `sightings/${person.visits.images[0]}/image` : null;

export function about(person) {
  const { count, cameras, first, last } = person.visits;
  return count ? `${counted(count, "visit")} · ${cameras.join(", ")} · first ${when(first)}, last ${when(last)}` : "not seen yet";
}

function card(person, merge, refresh) {
  const box = el("input", { type: "checkbox", checked: chosen.has(person.id), ariaLabel: `Choose ${person.name}` });
  box.onchange = () => {
    box.checked ? chosen.add(person.id) : chosen.delete(person.id);
    merge.disabled = chosen.size < 2;
  };
  return el(
    "section",
    { className: "card row" },
    button(face(pictureOf(person), ""), () => opened(person.id, refresh), "plain face"),
    el(
      "div",
      {},
      button(el("span", { className: "name" }, person.name), () => opened(person.id, refresh), "plain"),
      el("p", { className: "soft" }, person.kind === "ignored" ? `ignored · ${about(person)}` : about(person)),
    ),
    box,
  );
}

async function merged(people, refresh) {
  const picked = people.filter((person) => chosen.has(person.id));
  const into = picked[0];
  const { person, changes } = await send("POST", "people/merge", { into: into.id, others: picked.slice(1).map((p) => p.id) });
  chosen.clear();
  toast(`Merged ${counted(picked.length, "person", "people")} into ${person.name}`, changes, refresh);
  refresh();
}

function adding(refresh) {
  const files = el("input", { type: "file", multiple: true, accept: "image/*", ariaLabel: "Pictures" });
  const poor = el("input", { type: "checkbox" });
  const field = nameField("Add", "", async (name) => {
    const form = new FormData();
    form.append("name", name);
    form.append("accept_poor", String(poor.checked));
    for (const file of files.files) form.append("picture", file);
    const { person, added, skipped } = await upload("people", form);
    closeDialog();
    const left = skipped.length ? `; left out ${skipped.map((s) => `${s.picture}: ${s.reason}`).join("; ")}` : "";
    toast(`${person.name}: ${counted(added, "picture")} added${left}`);
    refresh();
  });
  dialog("Add somebody", el("p", { className: "soft" }, "Pictures with one face each."), files,
    el("p", {}, el("label", {}, poor, " Also poor pictures, for which strangers may be taken")), field);
}

export async function opened(id, refresh) {
  const [person, { samples }, { sightings }] = await Promise.all([
    get(`people/${id}`), get(`people/${id}/samples`), get(`sightings?person=${id}&limit=30`),
  ]);
  const changed = async (body, text) => {
    const answer = await send("PATCH", `people/${id}`, { ...body, was: person.name });
    closeDialog();
    toast(text(answer.person), answer.changes, refresh);
    refresh();
  };
  const group = el("input", { type: "text", value: person.group ?? "", maxLength: 100, ariaLabel: "Group" });
  const picked = new Set();
  const split = button("Chosen sightings are somebody else", async () => {
    const answer = await send("POST", `people/${id}/split`, { sightings: [...picked] });
    closeDialog();
    toast(`Parted ${counted(picked.size, "sighting")} from ${person.name}`, answer.changes, refresh);
    refresh();
  });
  split.disabled = true;
  dialog(
    person.name,
    el("p", { className: "soft" }, about(person)),
    nameField("Rename", person.name, (name) => changed({ name }, (now) => `Now called ${now.name}`)),
    el("div", { className: "bar" }, group, button("Set group", () => changed({ group: group.value.trim() || null }, (now) => `${now.name}: ${now.group ?? "no group"}`))),
    el("div", { className: "bar" },
      button(person.kind === "ignored" ? "Heed again" : "Ignore", () => changed({ ignored: person.kind !== "ignored" }, (now) => `${now.name} is ${now.kind}`)),
      button("Forget for good", () => forgotten(person, refresh), "danger")),
    person.resembles.length ? el("p", { className: "soft" }, "Resembles ", person.resembles.map((other, i) => [i ? ", " : "", el("bdi", {}, other.name), ` ${other.similarity.toFixed(2)} (needs ${other.threshold.toFixed(2)})`])) : "",
    el("h3", {}, counted(samples.length, "sample")),
    el("div", { className: "bar" }, samples.map((sample) => el("figure", { className: "card" },
      sample.image ? face(`people/${id}/samples/${sample.id}/image`, "", true) : el("span", { className: "soft" }, "no picture"),
      el("figcaption", { className: "soft" }, `${sample.provenance}${sample.quality === null ? "" : ` · quality ${sample.quality.toFixed(2)}`}`)))),
    el("h3", {}, sightings.length ? "Sightings" : ""),
    el("div", { className: "bar" }, sightings.map((row) => {
      const box = el("input", { type: "checkbox", ariaLabel: `Choose ${when(row.last)}` });
      box.onchange = () => { box.checked ? picked.add(row.id) : picked.delete(row.id); split.disabled = !picked.size; };
      return el("label", { className: "card" }, box, face(row.image && `sightings/${row.id}/image`, "", true), el("span", { className: "soft" }, `${row.camera} · ${when(row.last)}`));
    })),
    sightings.length ? el("div", { className: "bar" }, split) : "",
  );
}

export async function forgotten(person, refresh) {
  const sure = await confirmed(`Forget ${person.name}? Samples, sightings and pictures are erased. This cannot be undone.`, "Forget for good");
  if (!sure) return;
  await run(async () => {
    await remove(`people/${person.id}`);
    toast("Forgotten");
    refresh();
  });
}
