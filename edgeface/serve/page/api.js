// The API below the address of the page, so that it works under any prefix of a proxy.
export const url = (path) => new URL(`v1/${path}`, document.baseURI).href;

export class Refused extends Error {
  constructor(status, code, message, details) {
    super(message);
    Object.assign(this, { status, code, details });
  }
}

async function ask(method, path, options = {}) {
  let answer;
  try {
    answer = await fetch(url(path), { method, credentials: "same-origin", ...options });
  } catch {
    throw new Refused(0, "offline", "the service does not answer; it is tried again", {});
  }
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => null);
  if (!answer.ok) {
    const error = body?.error ?? {};
    throw new Refused(answer.status, error.code ?? "error", error.message ?? answer.statusText, error.details);
  }
  return body;
}

export const get = (path) => ask("GET", path);
export const remove = (path) => ask("DELETE", path);
export const send = (method, path, body) =>
  ask(method, path, { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
export const upload = (path, form) => ask("POST", path, { body: form });

// One stream for all screens. The browser reconnects by itself and says which event was the last; a
// proxy's error page ends that, and a new stream has to go on behind the same event.
export function listen(onEvent, onGap, onState) {
  let last = null;
  let source;
  function open() {
    source = new EventSource(url("events") + (last ? `?after=${encodeURIComponent(last)}` : ""));
    source.onopen = () => onState(true);
    source.onmessage = (message) => {
      last = message.lastEventId || last;
      onEvent(JSON.parse(message.data));
    };
    source.addEventListener("start", (message) => { last = message.lastEventId || last; });
    source.addEventListener("gap", onGap);
    source.onerror = () => {
      onState(false);
      if (source.readyState === EventSource.CLOSED) setTimeout(open, 2000);
    };
  }
  open();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (shown) => shown.persisted && open());
}
