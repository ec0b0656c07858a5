// Keeps the status strip true. The server wrote the words; the answer only picks among them.

import { byId, say } from "./dom.js";

const EVERY_MS = 4000;
const TIMEOUT_MS = 8000;

let timer = 0;

export function watchStatus() {
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) look();
  });
  timer = setTimeout(look, EVERY_MS);
}

async function look() {
  clearTimeout(timer);
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const answer = await fetch("/readyz", { signal, cache: "no-store" });
    show(await answer.json());
  } catch {
    setOverall("lost");
  }
  if (!document.hidden) timer = setTimeout(look, EVERY_MS);
}

function show(ready) {
  const { templates, database, worker, spooled_rows: pending } = ready;
  const whole = database === "ok" && worker === "ok" && templates.source === "database";
  setOverall(ready.status !== "ready" ? "not_ready" : whole ? "ready" : "fallback");
  setPart("templates", templates.source === "database" && templates.active > 0);
  setPart("database", database === "ok");
  setPart("worker", worker === "ok");
  say(byId("templates-count"), String(templates.active));
  pick(byId("templates-source"), templates.source);
  say(byId("templates-age"), age(templates));
  pick(byId("database"), database);
  say(byId("audit"), audit(pending));
  pick(byId("worker"), worker);
}

function setOverall(state) {
  byId("status").dataset.state = state;
  pick(byId("overall"), state);
}

function setPart(name, whole) {
  const card = document.querySelector(`[data-part="${name}"]`);
  card.dataset.state = whole && !card.hasAttribute("data-impure") ? "ok" : "away";
}

function pick(node, key) {
  say(node, node.getAttribute(`data-${key}`) ?? key);
}

function age({ source, age_seconds: exact }) {
  const seconds = Math.floor(exact);
  if (source === "hardcoded" && seconds === 0) return "";
  if (seconds < 2) return "confirmed just now";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= size) return `confirmed ${Math.floor(seconds / size)} ${unit} ago`;
  }
  return `confirmed ${seconds} s ago`;
}

function audit(pending) {
  if (pending === 0) return "all audit rows are written";
  return `${pending} audit ${pending === 1 ? "row waits" : "rows wait"} on local disk`;
}
