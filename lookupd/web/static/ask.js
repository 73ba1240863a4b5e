// The box that explains a number: its answer, the steps to it, its history.

import {make, pairs} from "./draw.js";
import {kindWords, stateWords} from "./feeds.js";
import {outcomeWords} from "./replicas.js";
import {count, moment, span, t} from "./words.js";

const answer = document.getElementById("answer");
let asked = 0;

export function listen() {
  const start = () => explain(document.getElementById("number").value, document.getElementById("moment").value);
  document.getElementById("explain").addEventListener("click", start);
  for (const name of ["number", "moment"]) {
    document.getElementById(name).addEventListener("keydown", event => { if (event.key === "Enter") start(); });
  }
}

async function explain(number, past) {
  const mine = ++asked;
  if (!number.trim()) return show(make("p", {class: "words"}, t("Type a number first.")));
  const path = `v1/numbers/${encodeURIComponent(number.trim())}`;
  const query = past ? `?as_of=${encodeURIComponent(new Date(past).toISOString().replace(/\.\d+Z$/, "Z"))}` : "";
  try {
    let reply = await fetch(`${path}/explanation${query}`, {cache: "no-store"});
    if (reply.status === 403 && !past) reply = await fetch(path, {cache: "no-store"});
    const told = await reply.json();
    if (mine !== asked) return;
    if (told.answer) show(...steps(told));
    else if (told.outcome) show(line(told), make("p", {class: "words"}, t("The steps and the history are not shown to this client.")));
    else if (reply.status === 403) show(make("p", {class: "words"}, t("The past of numbers is not shown to this client.")));
    else show(make("p", {class: "words"}, told.error ?? t("The daemon said nothing.")));
  } catch {
    if (mine === asked) show(make("p", {class: "words"}, t("The daemon does not answer.")));
  }
}

function show(...nodes) {
  answer.replaceChildren(...nodes);
}

function line(told) {
  const network = [told.operator ?? told.network_code, told.routing_number && `rn ${told.routing_number}`].filter(Boolean).join(", ");
  return make("p", {class: "answered", id: "answered"}, [told.number, outcomeWords(told.outcome), network].filter(Boolean).join(" · "));
}

function steps(told) {
  const final = told.answer;
  const rows = [
    [t("Kind"), told.kind ?? "–"],
    [t("Range"), told.range ? `${told.range.prefix}: ${told.range.holder.operator ?? told.range.holder.network_code}` : t("of nobody")],
    [t("Ported"), told.ported ? portedWords(told.ported) : t("no")],
    [t("Network code"), final.network_code ?? "–"],
    [t("Serial"), count(final.serial)],
  ];
  if (told.as_of) rows.push([t("Answered so from"), moment(told.as_of.applied_at)], [t("until"), told.as_of.until ? moment(told.as_of.until) : t("now")]);
  else rows.push([t("Age of the data"), final.age_seconds == null ? "–" : span(final.age_seconds)]);
  if (told.reason) rows.push([t("Reason"), told.reason]);
  if (told.damaged) rows.push([t("Damaged"), told.damaged]);
  const found = [line(final), pairs(rows)];
  if (told.pending?.length) found.push(make("h3", {}, t("Agreed for later")), list(told.pending, each => `${moment(each.effective_at)} ${kindWords(each.kind)}`));
  if (told.history) found.push(make("h3", {}, t("History")), told.history.length ? list(told.history, historyWords) : make("p", {class: "words"}, t("No change is kept.")));
  if (told.dialects?.length) found.push(make("h3", {}, t("What each dialect says")), list(told.dialects.flatMap(dialectWords), each => each));
  return found;
}

function portedWords(state) {
  const when = state.ported_at ? t("{moment}, to {network}", {moment: moment(state.ported_at), network: stateWords(state)}) : stateWords(state);
  return state.donor ? t("{words}, from {network}", {words: when, network: state.donor}) : when;
}

function historyWords(entry) {
  const before = entry.old?.[0] ?? entry.old;
  const change = `${stateWords(Array.isArray(before) ? before[0] : before)} → ${stateWords(entry.new)}`;
  return [moment(entry.applied_at), kindWords(entry.kind), change, entry.feed && `${entry.feed} ${entry.sequence}`, entry.ref].filter(Boolean).join(" · ");
}

function dialectWords(entry) {
  return Object.entries(entry).filter(([name]) => name !== "clients").map(([name, value]) => `${name}: ${plain(value)}`);
}

function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join("; ");
  if (value && typeof value === "object") return Object.entries(value).filter(each => each[1] != null).map(([name, each]) => `${name} ${plain(each)}`).join(", ");
  return String(value);
}

function list(items, words) {
  return make("ol", {}, ...items.map(item => make("li", {}, words(item))));
}
