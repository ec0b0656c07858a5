// Tells the user's own words in the enhanced prompt from what was added.

/**
 * Splits `text` into [{text, part}], part being "kept", "added" or "joint".
 *
 * A clause may begin with another case than it was given in, so the search ignores case. What
 * is found nowhere is shown as a joint: better unmarked than marked wrongly.
 */
export function partsOf(text, kept, added) {
  const owners = new Array(text.length).fill("joint");
  const folded = fold(text);
  claim(folded, owners, kept, "kept");
  claim(folded, owners, added, "added");
  const parts = [];
  for (let at = 0; at < text.length; at += 1) {
    const last = parts.at(-1);
    if (last && last.part === owners[at]) last.text += text[at];
    else parts.push({ text: text[at], part: owners[at] });
  }
  return parts;
}

function claim(folded, owners, clauses, part) {
  let from = 0;
  for (const clause of clauses) {
    const wanted = fold(clause);
    if (!wanted) continue;
    let at = folded.indexOf(wanted, from);
    while (at >= 0 && owners.slice(at, at + wanted.length).some((owner) => owner !== "joint")) {
      at = folded.indexOf(wanted, at + 1);
    }
    if (at < 0) continue;
    owners.fill(part, at, at + wanted.length);
    from = at + wanted.length;
  }
}

// Some letters have more code units in lower case; offsets must stay those of the text.
function fold(text) {
  const lower = text.toLowerCase();
  return lower.length === text.length ? lower : text;
}
