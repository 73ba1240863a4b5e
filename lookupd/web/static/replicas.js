// The pair, side by side: who serves, from what, how fast.

import {bar, fill, make, pairs, say, shape, standing} from "./draw.js";
import {count, seconds, span, t} from "./words.js";

const OUTCOMES = ["ported", "not_ported", "not_allocated", "not_portable", "unavailable", "refused"];

function outcomeWords(outcome) {
  return {
    ported: t("ported"), not_ported: t("not ported"), not_allocated: t("not allocated"),
    not_portable: t("not portable"), unavailable: t("unavailable"), refused: t("refused"),
  }[outcome] ?? outcome;
}

export {outcomeWords};

function judge(replica) {
  if (replica.up === false) return ["bad", replica.name ? t("does not answer") : t("not heard of yet")];
  if (replica.withdrawn) return ["care", t("stands back: {reason}", {reason: replica.withdrawn})];
  if (!replica.ready) return ["bad", replica.reason ? t("serves nothing: {reason}", {reason: replica.reason}) : t("serves nothing")];
  if (replica.damaged_blocks) return ["care", t("serves; {n} blocks are damaged", {n: count(replica.damaged_blocks)})];
  return ["good", t("serves")];
}

function digestWords(replica, other) {
  const short = replica.digest ?? "–";
  if (!other?.digest || !replica.digest) return short;
  return replica.digest === other.digest ? t("{digest}, as the other one", {digest: short}) : t("{digest}, not as the other one", {digest: short});
}

function card(replica, other, title) {
  const [state, words] = judge(replica);
  const vitals = replica.vitals ?? {};
  const outcomes = vitals.outcomes ?? {};
  const parts = OUTCOMES.map((name, at) => ({name: `part-${at}`, value: outcomes[name] ?? 0, outcome: name}));
  const known = replica.name != null;
  const box = make("article", {class: "replica", "data-state": state, "aria-label": title},
    make("h3", {}, known ? `${title}: ${replica.name}` : title), standing(state, words));
  if (!known) return box;
  box.append(
    pairs([
      [t("Queries a second"), count(vitals.queries_per_second), "big"],
      [t("Answered within, 99 %"), seconds(vitals.reply_p99_seconds)],
      [t("Serial"), count(replica.serial)],
      [t("Digest"), digestWords(replica, other)],
      [t("Age of the data"), replica.age_seconds == null ? "–" : span(replica.age_seconds)],
      [t("Ported numbers"), count(replica.ported)],
      [t("Up since"), span(replica.uptime_seconds ?? 0)],
    ]),
    bar(parts),
    make("ul", {class: "outcomes", "aria-label": t("Outcomes of the last minute")},
      ...parts.filter(part => part.value || part.outcome === "ported" || part.outcome === "unavailable").map(part =>
        make("li", {},
          shape("svg", {viewBox: "0 0 10 10", "aria-hidden": "true"}, shape("rect", {class: part.name, width: 10, height: 10})),
          `${outcomeWords(part.outcome)} `, make("b", {}, count(part.value))))));
  return box;
}

function pairWords(status) {
  const pair = status.pair;
  if (!pair) return [null, t("This replica has no peer: replica.peer is not set.")];
  if (pair.state === "agrees") return ["good", t("Both have the same data.")];
  if (pair.state === "behind") return ["care", t("This replica lacks {n} files that the other one has.", {n: count(pair.lag_files)})];
  if (pair.state === "ahead") return ["care", t("The other replica lacks {n} files.", {n: count(-pair.lag_files)})];
  if (pair.state === "differs") {
    const why = pair.why ?? "";
    if (pair.verdict === "we") return ["bad", t("The data differs, and this replica is wrong: {why}", {why})];
    if (pair.verdict === "they") return ["bad", t("The data differs, and the other replica is wrong: {why}", {why})];
    return ["bad", t("The data differs, and who is wrong is not known: {why}", {why})];
  }
  return ["bad", t("The other replica does not answer: {why}", {why: pair.summary ?? ""})];
}

export function showReplicas(status) {
  const {replica, peer} = status;
  say(document.getElementById("name"), replica.name);
  say(document.getElementById("version"), `lookupd ${replica.version} · ${replica.engine}`);
  document.title = `lookupd ${replica.name}`;
  const [state, words] = pairWords(status);
  fill(document.getElementById("pair-words"), [state, words, document.documentElement.lang], () => {
    const line = document.getElementById("pair-words");
    if (!state) { delete line.dataset.state; return [words]; }
    line.dataset.state = state;
    return [make("span", {class: "sign", "aria-hidden": "true"}), make("span", {class: "says"}, words)];
  });
  fill(document.getElementById("replicas"), [replica, peer, document.documentElement.lang], () =>
    peer ? [card(replica, peer, t("This replica")), card(peer, replica, t("The other replica"))] : [card(replica, null, t("This replica"))]);
}
