// What could have come at a position instead.

import { showPercent } from "./colour.js";
import { make } from "./pen.js";

const SAME = 2e-4; // two probabilities of five digits, one of them by way of its logarithm

// Greedily, or sampled without a warper, tokens come from the model's own distribution, which need not be told twice.
export function dropSame(tokens) {
  const same = (sampled, model) => sampled === null || Math.abs(sampled - model) <= SAME;
  const rows = tokens.alternatives.flat();
  tokens.warped = !(rows.every((one) => same(one[2], one[1])) && tokens.sampled.every((value, at) => same(value, Math.exp(tokens.logprobs[at]))));
  if (tokens.warped) return;
  tokens.sampled.fill(null);
  for (const one of rows) one[2] = null;
}

// Whether any token of a text was predicted, as no encoder does.
export function predicted(tokens) {
  return tokens.logprobs.some((value) => value !== null);
}

// What the model gave an alternative; the token that came has more digits elsewhere, which it says here too.
export function modelShare(tokens, position, [, model, , came]) {
  return came && tokens.logprobs[position] !== null ? Math.exp(tokens.logprobs[position]) : model;
}

// Rows of what was likely at a position, best first; the one that came is marked.
export function fillAlternatives(element, tokens, position) {
  const rows = position >= 0 ? tokens.alternatives[position] : [];
  if (element.of !== tokens) element.most = Math.max(1, ...(element.of = tokens).alternatives.map((one) => one.length));
  while (element.children.length < element.most) {
    element.append(make("div", { role: "listitem" }, make("bdi"), make("span", { className: "track" }, make("i"), make("i", { className: "sampled" })), make("span"), make("span")));
  }
  element.classList.toggle("plain", !tokens.warped);
  element.ariaHidden = rows.length ? null : "true";
  [...element.children].forEach((row, at) => {
    const one = rows[at];
    row.classList.toggle("empty", !one);
    const [name, track, model, sampled] = row.children;
    name.textContent = one ? tokens.words[one[0]] : "";
    model.textContent = one ? showPercent(modelShare(tokens, position, one)) : "";
    sampled.textContent = one && one[2] !== null ? (one[2] === 0 ? "excluded" : showPercent(one[2])) : "";
    row.classList.toggle("came", Boolean(one?.[3]));
    track.children[0].style.transform = `scaleX(${one?.[1] ?? 0})`;
    track.children[1].style.transform = `scaleX(${one?.[2] ?? 0})`;
    track.classList.toggle("both", Boolean(one) && one[2] !== null);
  });
}
