"use strict";
// Draws the people of a pile. Opened as a file it only shows; served by `edgeface cluster --open` it
// also names, merges and splits. Text reaches the page through textContent, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function title(person) {
  return person.name || `Person ${person.person}`;
}

function figure(face) {
  const box = make("figure", undefined, { "data-number": face.number });
  if (face.exemplar) box.className = "exemplar";
  const link = make("a", undefined, { href: face.link, target: "_blank", rel: "noopener" });
  const crop = data.crops ? data.crops[face.number] : undefined;
  const source = crop ? `data:image/jpeg;base64,${crop}` : face.crop;
  link.append(make("img", undefined, { alt: face.face, ...(source && { src: source }),
    loading: "lazy" }));
  const says = face.unfit || face.certainty.toFixed(2);
  const caption = make("figcaption", `#${face.number} ${says} ${face.face}`, { title: face.face });
  box.append(link, caption);
  return box;
}

function sheet(faces, size) {
  const node = make("div", undefined, { class: "sheet" });
  node.append(...faces.map(figure));
  if (size > faces.length) node.append(make("p", `and ${size - faces.length} more certain ones`));
  return node;
}

async function change(action, body) {
  const message = document.getElementById("message");
  const answer = await fetch(action, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  }).catch(() => null);
  if (answer && answer.ok) return location.reload();
  message.textContent = answer ? await answer.text() : "edgeface no longer answers; start it again";
}

function button(text, action) {
  const node = make("button", text, { type: "button" });
  node.addEventListener("click", action);
  return node;
}

function controls(person, section) {
  const form = make("form");
  const name = make("input", undefined,
    { type: "text", "aria-label": `Name of ${title(person)}`, placeholder: "Name" });
  name.value = person.name;
  form.append(name, make("button", "Name"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change("name", { person: person.person, name: name.value });
  });
  const others = make("select", undefined, { "aria-label": `Who ${title(person)} also is` });
  others.append(make("option", "is the same as …", { value: "" }));
  for (const other of data.people) {
    if (other.person !== person.person) {
      others.append(make("option", title(other), { value: other.person }));
    }
  }
  others.addEventListener("change", () => {
    if (others.value) change("merge", { into: Number(others.value), other: person.person });
  });
  const apart = button("Chosen faces are somebody else", () => {
    const chosen = [...section.querySelectorAll("figure.chosen")];
    change("split", { faces: chosen.map((node) => Number(node.dataset.number)) });
  });
  form.append(others, apart);
  return form;
}

function section(person) {
  const node = make("section", undefined, { id: `person-${person.person}` });
  const head = make("h2", title(person));
  head.append(make("small", `${person.size} faces`));
  if (data.editable) head.append(controls(person, node));
  node.append(head, sheet(person.faces, person.size));
  if (data.editable) {
    for (const box of node.querySelectorAll("figure")) {
      const label = make("label");
      const choice = make("input", undefined, { type: "checkbox", "aria-label": "choose" });
      choice.addEventListener("change", () => box.classList.toggle("chosen", choice.checked));
      label.append(choice, "choose");
      box.append(label);
    }
  }
  return node;
}

// The golden angle spreads neighbouring numbers over the colour circle.
function colour(person) {
  return `hsl(${(person * 137) % 360} 60% 50%)`;
}

function legend(people) {
  const list = make("ul", undefined, { id: "legend" });
  for (const person of people.slice(0, 20)) {
    const item = make("li", `${title(person)} (${person.size})`);
    const mark = make("span");
    mark.style.background = colour(person.person);
    item.prepend(mark);
    list.append(item);
  }
  if (people.length > 20) list.append(make("li", `and ${people.length - 20} more people`));
  return list;
}

function map(points) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 1000 500");
  svg.id = "map";
  const names = new Map(data.people.map((person) => [person.person, title(person)]));
  for (const [x, y, person, exemplar] of points) {
    const dot = document.createElementNS(space, "circle");
    const look = { cx: x, cy: y, r: exemplar ? 5 : 2.5, fill: colour(person) };
    for (const [key, value] of Object.entries(look)) dot.setAttribute(key, value);
    const name = document.createElementNS(space, "title");
    name.textContent = names.get(person);
    dot.append(name);
    svg.append(dot);
  }
  return svg;
}

document.querySelector("h1").textContent =
  `${data.people.length} people in ${data.faces - data.unfit.size} faces`;
document.getElementById("hint").textContent =
  "Largest first; within a person the least certain faces come first. A face links to its picture.";
if (data.map.length) main.append(map(data.map), legend(data.people));
main.append(...data.people.map(section));
if (data.unfit.size) {
  const folded = make("details", undefined, { id: "unfit" });
  folded.append(make("summary", `${data.unfit.size} faces that cannot be judged`));
  folded.append(sheet(data.unfit.faces, data.unfit.size));
  main.append(folded);
}
