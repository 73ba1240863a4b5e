// The pair, side by side: who serves, from what, how fast.

import {bar, fill, make, pairs, say, shape, sign, standing, trend} from "./draw.js";
import {count, moment, rate, seconds, span, t} from "./words.js";

const OUTCOMES = ["ported", "not_ported", "not_allocated", "not_portable", "unavailable", "refused"];
const TREND_SECONDS = 300;
const TREND_LEAST = 60;

export function outcomeWords(outcome) {
  return {
    ported: t("ported"), not_ported: t("not ported"), not_allocated: t("not allocated"),
    not_portable: t("not portable"), unavailable: t("unavailable"), refused: t("refused"),
  }[outcome] ?? outcome;
}

// State, words, and the page of the manual that says what to do.
function judge(replica) {
  if (replica.up === false) return ["bad", replica.name ? t("does not answer") : t("not heard of yet"), "pair"];
  if (replica.withdrawn) return ["care", t("stands back: {reason}", {reason: replica.withdrawn}), "divergence"];
  if (!replica.ready) return ["bad", replica.reason ? t("serves nothing: {reason}", {reason: replica.reason}) : t("serves nothing"), "doctor"];
  if (replica.damaged_blocks) return ["care", t("serves; {n} blocks are damaged", {n: count(replica.damaged_blocks)}), "damaged-block"];
  return ["good", t("serves"), null];
}

export function manual(page) {
  return make("p", {class: "see"}, t("What to do:"), " ", make("code", {}, `docs/operations/${page}.md`));
}

function digestWords(replica, other) {
  if (!replica.digest) return "–";
  const short = make("code", {title: replica.digest}, replica.digest.slice(0, 8));
  if (!other?.digest) return make("span", {}, short);
  return make("span", {}, short, ", ", replica.digest === other.digest ? t("same on both") : t("not the same on both"));
}

class Card {
  constructor() {
    this.node = make("article", {class: "replica"});
    [this.head, this.figures, this.trend, this.facts, this.outcomes] = ["head", "numbers", "drawn", "known", "mix"].map(name => make("div", {class: name}));
    this.node.append(this.head, this.figures, this.trend, this.facts, this.outcomes);
    this.name = null;
    this.points = [];
  }

  show(replica, other, title) {
    const [state, words, page] = judge(replica);
    this.node.dataset.state = state;
    this.node.setAttribute("aria-label", title);
    fill(this.head, [replica.name, state, words, title], () => [
      make("div", {class: "title"}, make("h3", {}, replica.name ?? "–"), make("span", {}, title)),
      standing(state, words), ...(page ? [manual(page)] : [])]);
    const isKnown = replica.name != null;
    for (const part of [this.figures, this.trend, this.facts, this.outcomes]) part.hidden = !isKnown;
    const isUp = isKnown && replica.up !== false;
    this.remember(replica.name, isUp ? replica.vitals?.queries_per_second : null);
    if (isKnown) this.showKnown(replica, other, isUp ? replica.vitals ?? {} : {});
  }

  remember(name, value) {
    const now = performance.now() / 1000;
    if (this.name !== name) [this.name, this.points] = [name, []];
    this.points.push([now, value ?? null]);
    while (this.points[0][0] < now - TREND_SECONDS) this.points.shift();
    const most = Math.max(0, ...this.points.map(point => point[1] ?? 0));
    const known = now - this.points[0][0];
    this.trend.replaceChildren(make("div", {class: "plot"}, trend(this.points, now, Math.max(known, TREND_LEAST))),
      make("p", {class: "caption"}, t("queries a second over {span}; at most {n}", {span: span(known), n: rate(most)})));
  }

  showKnown(replica, other, vitals) {
    const figures = [
      [rate(vitals.queries_per_second), t("Queries a second")],
      [seconds(vitals.reply_p99_seconds), t("99 % within")],
      [replica.age_seconds == null ? "–" : span(replica.age_seconds), t("Age of the data")],
    ];
    fill(this.figures, figures, () => [make("dl", {class: "figures"},
      ...figures.map(([value, name]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))))]);
    const known = [replica.serial, replica.digest, other?.digest, replica.ported, replica.started_at];
    fill(this.facts, known, () => [pairs([
      [t("Serial"), count(replica.serial)],
      [t("Digest"), digestWords(replica, other)],
      [t("Ported numbers"), count(replica.ported)],
      [t("Up since"), moment(replica.started_at)],
    ])]);
    const outcomes = vitals.outcomes ?? {};
    const parts = OUTCOMES.map((name, at) => ({name: `part-${at}`, value: outcomes[name] ?? 0, outcome: name}));
    fill(this.outcomes, parts, () => [bar(parts), make("ul", {class: "outcomes", "aria-label": t("Outcomes of the last minute")},
      ...parts.map(part => make("li", {}, square(part.name), make("span", {}, outcomeWords(part.outcome)), make("b", {}, count(part.value)))))]);
  }
}

function square(name) {
  return shape("svg", {viewBox: "0 0 10 10", "aria-hidden": "true"}, shape("rect", {class: name, width: 10, height: 10}));
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

const ours = new Card();
const theirs = new Card();

export function showReplicas(status) {
  const {replica, peer} = status;
  say(document.getElementById("name"), replica.name);
  say(document.getElementById("version"), `lookupd ${replica.version}, ${replica.engine}`);
  const [state, words] = pairWords(status);
  const line = document.getElementById("pair-words");
  line.dataset.state = state ?? "none";
  fill(line, [state, words], () => state ? [sign(), make("span", {class: "says"}, words)] : [words]);
  ours.show(replica, peer, t("This replica"));
  if (peer) theirs.show(peer, replica, t("The other replica"));
  const cards = peer ? [ours.node, theirs.node] : [ours.node];
  const place = document.getElementById("replicas");
  if (place.childElementCount !== cards.length) place.replaceChildren(...cards);
  const isGood = judge(replica)[0] === "good" && (state ?? "good") === "good";
  document.title = `${isGood ? "" : "⚠ "}${replica.name}, lookupd`;
}

export function hideReplicas(words) {
  const line = document.getElementById("pair-words");
  line.dataset.state = "none";
  fill(line, words, () => [words]);
  document.getElementById("replicas").replaceChildren();
}
