// Building and copying. Text goes in as text: nothing here parses markup.

export const byId = (id) => document.getElementById(id);

/** Returns a new element; children are nodes or strings, null ones are left out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Writes only what changed, so that a live region speaks only of news. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Copies, and says so on the button for a moment without changing its width. */
export async function copyFrom(button, text) {
  const done = await copy(text);
  button.dataset.label ??= button.textContent;
  button.style.minWidth = `${Math.ceil(button.getBoundingClientRect().width)}px`;
  button.textContent = done ? "Copied" : "Select it";
  say(byId("announce"), done ? "Copied." : "Copying is blocked here; select the text instead.");
  clearTimeout(Number(button.dataset.timer));
  button.dataset.timer = setTimeout(() => {
    button.textContent = button.dataset.label;
    say(byId("announce"), "");
  }, 1600);
}

export function copyButton(label, text) {
  const button = el("button", { type: "button", class: "quiet small" }, label);
  button.addEventListener("click", () => copyFrom(button, text));
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

// The clipboard interface exists on https and loopback only.
function copyBySelection(text) {
  const focused = document.activeElement;
  const area = el("textarea", { class: "sr-only", "aria-hidden": "true", tabindex: "-1" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus({ preventScroll: true });
  return done;
}
