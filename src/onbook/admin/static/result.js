// Shows an answer, or why there is none.

import { byId, copyButton, el } from "./dom.js";
import { partsOf } from "./parts.js";

const STRATEGIES = {
  template: "The model wrote, by the template",
  template_retry: "The model wrote, at the second draw",
  rules: "Rules wrote, without a model",
  passthrough: "Passed through, without a model",
};
const LEVELS = [
  "0, none: template from the database",
  "1: template from the last good snapshot",
  "2: packaged template",
  "3: no model output was used",
];
const SOURCES = {
  database: "database",
  system_cache: "last good snapshot",
  hardcoded: "packaged",
};
const INTEGRITY = {
  verified: "Verified: the signed receipt matches what was sent",
  unverified: "Unverified: the worker gave no receipt",
  not_applicable: "Not applicable: no model output is in this text",
  violation: "Violated: the worker's output was thrown away",
};
const WARNINGS = {
  model_refused: "The model declined; nothing of its text was used.",
  added_people: "The model may have added people who were not asked for.",
  empty_output: "The model wrote nothing.",
};

const number = new Intl.NumberFormat("en");

export function showAnswer(answer) {
  const facts = answer.enhancement_metadata;
  byId("done").replaceChildren(
    ...[
      enhanced(answer, facts),
      tokenBar(facts),
      notes("Warnings", "warning", facts.warnings.map((text) => WARNINGS[text] ?? sentence(text))),
      notes("Cut to fit", "cut", facts.compression_cuts),
      negative(answer.negative_prompt),
      factList(answer, facts),
      raw(answer),
    ].filter(Boolean),
  );
}

/** `problem` is the error body; `status` its HTTP status, or null where none was reached. */
export function showProblem(problem, status) {
  const fields = problem.details?.fields;
  const named = Array.isArray(fields)
    ? fields.map((name) => [name, ""])
    : Object.entries(fields ?? {});
  const node = byId("error");
  node.replaceChildren(
    el("p", { class: "error-title" }, problem.error),
    el("p", {}, problem.suggested_action),
  );
  if (named.length) {
    node.append(
      el("ul", {}, ...named.map(([name, why]) => el("li", {}, el("code", {}, name), ` ${why}`))),
    );
  }
  if (problem.error_code || problem.request_id) {
    node.append(
      el(
        "p",
        { class: "error-foot" },
        el("span", {}, [problem.error_code, status].filter(Boolean).join(" · ")),
        problem.request_id
          ? el("span", {}, "request ", el("code", {}, problem.request_id))
          : null,
      ),
    );
  }
}

function enhanced(answer, facts) {
  const spaced = /[ \t]{2}|\t/.test(answer.enhanced_prompt);
  const text = el("p", { class: spaced ? "enhanced spaced" : "enhanced", id: "enhanced" });
  const parts = partsOf(answer.enhanced_prompt, facts.kept, facts.added);
  for (const { text: piece, part } of parts) {
    text.append(
      part === "joint" ? piece : el(part === "added" ? "ins" : "span", { class: part }, piece),
    );
  }
  const some = parts.some(({ part }) => part === "added");
  return el(
    "div",
    { class: "enhanced-box" },
    text,
    el(
      "div",
      { class: "enhanced-foot" },
      el(
        "p",
        { class: "legend" },
        el("span", { class: "kept" }, "your words"),
        some ? el("ins", { class: "added" }, "added") : el("span", {}, "nothing added"),
      ),
      copyButton("Copy prompt", answer.enhanced_prompt),
    ),
  );
}

function tokenBar(facts) {
  const { token_count: count, token_limit: limit, tokenizer } = facts;
  const label = `${number.format(count)} of ${number.format(limit)} ${tokenizer} tokens`;
  const fill = el("i");
  fill.style.width = `${limit > 0 ? Math.min(100, (count / limit) * 100) : 0}%`;
  const before = facts.compression_applied
    ? el("span", {}, `${number.format(facts.tokens_before_compression)} before cuts`)
    : null;
  return el(
    "div",
    { class: "tokens" },
    el("p", {}, el("span", { id: "tokens" }, label), before),
    el("div", { class: "bar", "aria-hidden": "true" }, fill),
  );
}

function duration(ms) {
  if (ms < 1) return "under 1 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

function notes(title, kind, texts) {
  if (!texts.length) return null;
  return el(
    "div",
    { class: `notes ${kind}` },
    el("h3", {}, title),
    el("ul", {}, ...texts.map((text) => el("li", {}, text))),
  );
}

function negative(text) {
  if (!text) return null;
  return el(
    "div",
    { class: "negative" },
    el("div", { class: "label-row" }, el("h3", {}, "Negative prompt"), copyButton("Copy", text)),
    el("p", {}, text),
  );
}

function factList(answer, facts) {
  const template = facts.template_name
    ? `${facts.template_name}@${facts.template_version}`
    : "none";
  const workerTime = facts.worker_response_time_ms;
  const rows = [
    ["Template", template, true],
    ["Source", SOURCES[facts.template_source] ?? "none"],
    ["Model", facts.model_used ?? "none"],
    ["Mode", facts.content_mode],
    ["Strategy", STRATEGIES[answer.enhancement_strategy]],
    ["Fallback", LEVELS[facts.fallback_level]],
    ["Integrity", INTEGRITY[facts.integrity.status]],
    ["Worker", workerTime === null ? "not used" : duration(workerTime)],
    ["Total", duration(facts.execution_time_ms)],
    ["Seed", String(facts.seed), true],
    ["Request", answer.request_id, true],
  ];
  return el(
    "dl",
    { class: "facts" },
    ...rows.map(([name, value, code]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, code ? el("code", {}, value) : value)),
    ),
  );
}

function raw(answer) {
  const text = JSON.stringify(answer, null, 2);
  return el(
    "details",
    { class: "raw" },
    el("summary", {}, "The whole answer as JSON"),
    el("pre", { tabindex: "0", "aria-label": "Answer as JSON" }, el("code", {}, text)),
  );
}

function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
