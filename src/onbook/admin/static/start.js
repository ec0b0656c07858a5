// The form: checks, sends, waits, can be cancelled, and shows what came back.

import { byId, copyFrom, say } from "./dom.js";
import { showAnswer, showProblem } from "./result.js";
import { watchStatus } from "./status.js";

const PATH = "/functions/v1/enhance-prompt";
const KEY_SLOT = "onbook.access_key";
const EXAMPLE = "a cat in a garden";

const form = byId("form");
const key = byId("key");
const keep = byId("keep-key");
const prompt = byId("prompt");
const seed = byId("seed");
const counter = byId("counter");
const submit = byId("submit");
const cancel = byId("cancel");
const result = byId("result");

const maxChars = Number(counter.dataset.max);
const maxSeed = Number(seed.dataset.max);
const number = new Intl.NumberFormat("en");

let running = null;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    send();
  } else if (event.key === "Escape") {
    running?.abort();
  }
});
cancel.addEventListener("click", () => running?.abort());
form.addEventListener("input", (event) => {
  if (event.target.hasAttribute("aria-invalid")) complain(event.target, "");
  refreshCounter();
  refreshCurl();
});
form.addEventListener("change", refreshCurl);
keep.addEventListener("change", rememberKey);
key.addEventListener("input", rememberKey);
byId("copy-curl").addEventListener("click", (event) => {
  copyFrom(event.currentTarget, byId("curl").textContent);
});

restoreKey();
refreshCounter();
refreshCurl();
if (navigator.platform.startsWith("Mac")) byId("keys-hint").firstElementChild.textContent = "⌘";
watchStatus();

async function send() {
  if (running || !check()) return;
  running = new AbortController();
  const started = performance.now();
  busy(true);
  const ticking = setInterval(() => tick(started), 100);
  tick(started);
  try {
    const answer = await fetch(PATH, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${key.value.trim()}` },
      body: JSON.stringify(request()),
      credentials: "omit",
      signal: running.signal,
    });
    const body = await answer.json();
    if (answer.ok) showAnswer(body);
    else showProblem(body, answer.status);
    if (answer.status === 401) complain(key, "This key was not accepted.");
    show(answer.ok ? "done" : "error");
  } catch (error) {
    showProblem(...failure(error, performance.now() - started));
    show("error");
  } finally {
    clearInterval(ticking);
    running = null;
    busy(false);
  }
  land();
}

function failure(error, elapsed) {
  if (error.name === "AbortError") {
    return [
      {
        error: `Cancelled after ${(elapsed / 1000).toFixed(1)} s.`,
        suggested_action: "Your prompt is still in the form. Onbook may have finished it all the same.",
      },
      null,
    ];
  }
  const garbled = error instanceof SyntaxError;
  return [
    {
      error: garbled ? "The answer was not from Onbook." : "Onbook cannot be reached.",
      suggested_action: garbled
        ? "Check what stands between this page and Onbook, such as a proxy."
        : "Check that it still runs and that you are connected, then send again.",
    },
    null,
  ];
}

function request() {
  const body = {
    prompt: prompt.value,
    jobType: byId("target").value,
    quality: byId("quality").value,
  };
  if (seed.value.trim()) body.seed = Number(seed.value.trim());
  return body;
}

function check() {
  const chars = countChars();
  const wrong = [
    [key, /^[\x21-\x7e]+$/.test(key.value.trim()) ? "" : keyProblem()],
    [prompt, promptProblem(chars)],
    [seed, seedProblem()],
  ];
  for (const [field, text] of wrong) complain(field, text);
  const first = wrong.find(([, text]) => text);
  first?.[0].focus();
  return !first;
}

function keyProblem() {
  return key.value.trim()
    ? "An access key holds no spaces and no special letters."
    : "Enter the access key that Onbook printed.";
}

function promptProblem(chars) {
  if (!prompt.value.trim()) return "Enter a prompt; a few words are enough.";
  if (chars <= maxChars) return "";
  const over = chars - maxChars;
  return `Shorten the prompt by ${number.format(over)} character${over === 1 ? "" : "s"}.`;
}

function seedProblem() {
  const text = seed.value.trim();
  if (!text || (/^\d{1,10}$/.test(text) && Number(text) <= maxSeed)) return "";
  return `A whole number from 0 to ${number.format(maxSeed)}, or empty.`;
}

function complain(field, text) {
  say(byId(`${field.id}-error`), text);
  if (text) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

// Characters as the service counts them: an emoji is one, though JavaScript counts two.
function countChars() {
  let count = 0;
  for (const _ of prompt.value) count += 1;
  return count;
}

function refreshCounter() {
  const chars = countChars();
  say(counter, `${number.format(chars)} / ${number.format(maxChars)}`);
  counter.classList.toggle("over", chars > maxChars);
}

function refreshCurl() {
  const body = JSON.stringify({ ...request(), prompt: prompt.value.trim() || EXAMPLE });
  say(
    byId("curl"),
    `curl -s ${location.origin}${PATH} \\\n` +
      "  -H 'Content-Type: application/json' \\\n" +
      '  -H "Authorization: Bearer $ONBOOK_KEY" \\\n' +
      `  -d '${body.replaceAll("'", "'\\''")}'`,
  );
}

function busy(on) {
  submit.setAttribute("aria-disabled", String(on));
  cancel.hidden = !on;
  byId("keys-hint").hidden = on;
  result.setAttribute("aria-busy", String(on));
  if (on) {
    say(byId("announce"), "Writing.");
    show("busy");
  } else {
    say(byId("announce"), "");
  }
}

function tick(started) {
  say(byId("elapsed"), `${((performance.now() - started) / 1000).toFixed(1)} s`);
}

function show(view) {
  result.dataset.view = view;
}

// Focus goes to the heading, so that a screen reader reads on and a phone scrolls there.
function land() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  byId("result-title").focus({ preventScroll: true });
  result.scrollIntoView({ block: "nearest", behavior: still ? "auto" : "smooth" });
}

function rememberKey() {
  try {
    if (keep.checked && key.value) sessionStorage.setItem(KEY_SLOT, key.value.trim());
    else sessionStorage.removeItem(KEY_SLOT);
  } catch {
    keep.checked = false;
  }
}

function restoreKey() {
  try {
    const kept = sessionStorage.getItem(KEY_SLOT);
    if (kept) {
      key.value = kept;
      keep.checked = true;
    }
  } catch {
    keep.disabled = true;
  }
}
