// Each feed: where it is, and how much is left of the limits; then the newest changes.

import {fill, gauge, make, say, standing} from "./draw.js";
import {manual} from "./replicas.js";
import {count, hours, moment, seconds, span, t} from "./words.js";

const CARE_SHARE = 0.5;
const BAD_SHARE = 0.8;
const MANUAL = {gap: "gap", unfinished: "gap", guard: "refused-snapshot"};

export function kindWords(kind) {
  return {
    port: t("port"), return: t("return"), correct: t("correction"), snapshot: t("snapshot"), scheduled: t("agreed for later"),
    superseded: t("overtaken"), empty: t("nothing to do"), networks: t("networks table"), ranges: t("ranges table"),
    clock: t("clock"), pruned: t("pruned"), restored: t("restored"), repaired: t("repaired"), restrict: t("restricted"),
    extend: t("restriction extended"), lift: t("restriction lifted"), refused: t("refused by the rules"),
  }[kind] ?? kind;
}

export function measureWords(kind) {
  return {stop: t("stopped"), limit: t("limited"), no_roaming: t("no roaming"), alert: t("to be watched")}[kind] ?? kind;
}

// Entries that change no route; what there is to tell of them stands beside.
export function changesRoute(entry) {
  return !["scheduled", "superseded", "restrict", "extend", "lift", "refused"].includes(entry.kind);
}

function blockedWords(reason) {
  return {
    gap: t("a file is missing"), unfinished: t("part of a file is missing"), rejected: t("a file cannot be used"),
    guard: t("a file would move too many numbers, and waits for a word"),
  }[reason] ?? reason;
}

function clockRow(kind, clock) {
  const limit = clock.limit_seconds;
  const share = clock.waiting ? 1 - clock.margin_seconds / limit : 0;
  const state = !clock.waiting ? "good" : share >= BAD_SHARE ? "bad" : share >= CARE_SHARE ? "care" : "good";
  let words;
  if (!clock.waiting) words = t("nothing waits; limit {limit}", {limit: hours(limit)});
  else if (clock.margin_seconds < 0) words = t("{n} wait; the limit was missed {span} ago", {n: count(clock.waiting), span: span(-clock.margin_seconds)});
  else words = t("{n} wait; {span} left of {limit}", {n: count(clock.waiting), span: span(clock.margin_seconds), limit: hours(limit)});
  return make("div", {class: "clock", "data-state": state},
    make("span", {}, kindWords(kind)), gauge(share, words), standing(state, words, "span"));
}

function scale() {
  return make("div", {class: "clock", "aria-hidden": "true"}, make("div", {class: "scale"},
    make("span", {}, t("half left")), make("span", {}, t("a fifth left"))));
}

function feedBox(feed) {
  const exchange = feed.exchange;
  const box = make("article", {class: "feed", "aria-label": feed.feed},
    make("header", {}, make("h3", {}, feed.feed),
      make("span", {}, t("at file {n}", {n: count(feed.sequence)})),
      make("span", {}, t("confirmed {span} ago", {span: span(feed.age_seconds)})),
      make("span", {}, exchange?.source_seen_at ? t("source seen {moment}", {moment: moment(exchange.source_seen_at)}) : "")));
  if (!exchange) return box;
  if (exchange.blocked) {
    box.append(standing("bad", t("does not move: {why}", {why: blockedWords(exchange.blocked)})));
    if (Object.hasOwn(MANUAL, exchange.blocked)) box.append(manual(MANUAL[exchange.blocked]));
  }
  if (exchange.snapshot_wanted) box.append(standing("bad", t("only a snapshot can help; one was asked for")));
  const missed = Object.values(exchange.clocks ?? {}).some(clock => clock.waiting && clock.margin_seconds < 0);
  for (const [kind, clock] of Object.entries(exchange.clocks ?? {})) {
    if (kind === "port" || kind === "return" || clock.waiting) box.append(clockRow(kind, clock));
  }
  box.append(scale());
  if (missed) box.append(manual("breach"));
  return box;
}

export function showFeeds(told) {
  const words = [];
  if (told.exchange_reason) words.push(t("The exchange does not say what waits: {why}", {why: told.exchange_reason}));
  if (told.pending) words.push(t("Waiting for an agreed moment: {n}, the next at {moment}", {n: count(told.pending), moment: moment(told.next_moment)}));
  say(document.getElementById("feeds-words"), words.join(" "));
  fill(document.getElementById("feed-list"), told.feeds, () =>
    told.feeds.length ? told.feeds.map(feedBox) : [make("p", {class: "words"}, t("No file of a feed was applied yet."))]);
}

export function hideFeeds(words) {
  say(document.getElementById("feeds-words"), words);
  fill(document.getElementById("feed-list"), null, () => []);
}

export function stateWords(state) {
  if (!state) return t("not ported");
  return state.routing_number ? `${state.network_code} rn ${state.routing_number}` : state.network_code;
}

function concerned(entry) {
  if (!changesRoute(entry)) return "IMSI";
  return t("{n} numbers", {n: count(entry.added + entry.removed + entry.changed)});
}

function noticeRow(entry) {
  const numbers = entry.tn === entry.tn_to || !entry.tn_to ? entry.tn ?? "" : `${entry.tn} – ${entry.tn_to}`;
  const isNotice = entry.tn != null;
  const before = entry.old.length > 1 ? t("{n} different ones", {n: entry.old.length}) : stateWords(entry.old[0]);
  const took = entry.visible_at && entry.received_at ? (new Date(entry.visible_at) - new Date(entry.received_at)) / 1000 : null;
  const isChange = isNotice && changesRoute(entry);
  const after = entry.restriction ? measureWords(entry.restriction.kind) : "";
  return make("tr", {},
    make("td", {}, moment(entry.applied_at)), make("td", {}, kindWords(entry.kind)),
    make("td", {}, isNotice ? make("code", {}, numbers) : concerned(entry)),
    make("td", {}, isChange ? before : ""), make("td", {}, isChange ? stateWords(entry.new) : after),
    make("td", {class: "file"}, entry.feed ? `${entry.feed} ${entry.sequence ?? ""}` : entry.source ?? ""),
    make("td", {class: "number"}, seconds(took)));
}

export function showNotices(told) {
  say(document.getElementById("notices-words"), told.notices.length ? "" : t("None yet."));
  fill(document.getElementById("notice-list"), told.notices, () => told.notices.map(noticeRow));
}

export function hideNotices(words) {
  say(document.getElementById("notices-words"), words);
  fill(document.getElementById("notice-list"), null, () => []);
}
