// Building blocks. Text from outside becomes text, never markup.
import { get, send, url } from "./api.js";

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const button = (text, action, className = "") =>
  el("button", { type: "button", className, onclick: (event) => run(() => action(event), event.currentTarget) }, text);

// What goes wrong is said; a button cannot be pressed twice meanwhile.
export async function run(action, control) {
  if (control) control.disabled = true;
  try {
    return await action();
  } catch (error) {
    toast(error.message);
  } finally {
    if (control) control.disabled = false;
  }
}

// "Ben? Yes / No" about a face; the answer no is remembered.
export const question = (name, why, yes, no) =>
  el("div", { className: "bar ask", role: "group", ariaLabel: `${name}?` }, el("span", {}, el("bdi", { className: "name" }, name), "?", why && el("span", { className: "soft" }, ` ${why}`)), button("Yes", yes, "main"), button("No", no));

let hiding;
export function toast(text, changes = [], done = () => {}) {
  const box = document.getElementById("toast");
  const undo = box.querySelector("button");
  box.querySelector("span").textContent = text;
  undo.hidden = !changes.length;
  undo.onclick = () =>
    run(async () => {
      for (const change of [...changes].reverse()) await send("POST", `history/${change.id}/undo`, {});
      toast("Taken back");
      done();
    }, undo);
  box.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (box.hidden = true), changes.length ? 12000 : 6000);
}

export function dialog(title, ...body) {
  const box = document.getElementById("dialog");
  box.querySelector("h2").textContent = title;
  box.querySelector("#dialog-body").replaceChildren(...body, el("p", { className: "bar" }, el("button", { value: "" }, "Close")));
  if (!box.open) box.showModal();
  return box;
}

export const closeDialog = () => document.getElementById("dialog").close();

export function confirmed(question, yes) {
  return new Promise((resolve) => {
    const box = dialog(question, el("p", { className: "bar" }, button(yes, () => { resolve(true); box.close(); }, "danger")));
    box.addEventListener("close", () => resolve(false), { once: true });
  });
}

export function face(path, text, small = false) {
  const image = el("img", { className: small ? "face small" : "face", alt: text, loading: "lazy" });
  if (path) image.src = url(path);
  return image;
}

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });

export function when(text) {
  const at = new Date(text);
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(text).setHours(0, 0, 0, 0)) / 864e5);
  const date = days === 0 ? "today" : days === 1 ? "yesterday" : day.format(at);
  return `${date} ${time.format(at)}`;
}

export const clock = (text) => time.format(new Date(text));
export const counted = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;
export const nothing = (text) => el("p", { className: "soft" }, text);

// A field for a name with those there are, and what is done with it on Enter or with the button.
export function nameField(label, value, done) {
  const list = el("datalist", { id: `names-${Math.random().toString(36).slice(2)}` });
  const input = el("input", { type: "text", value, maxLength: 200, autocomplete: "off", required: true, ariaLabel: label });
  input.setAttribute("list", list.id);
  const save = () => (input.value.trim() ? done(input.value.trim()) : input.focus());
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    run(save, input);
  });
  get("people?kind=known").then(
    ({ people }) => list.append(...people.map((person) => el("option", { value: person.name }))),
    () => {},
  );
  const field = el("div", { className: "bar" }, input, list, button(label, save, "main"));
  field.input = input;
  return field;
}
