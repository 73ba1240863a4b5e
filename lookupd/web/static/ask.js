// The box that explains a number: its answer, the steps to it, its history.

import {make, pairs} from "./draw.js";
import {changesRoute, kindWords, measureWords, stateWords} from "./feeds.js";
import {outcomeWords} from "./replicas.js";
import {get} from "./requests.js";
import {count, moment, span, t} from "./words.js";

const answer = document.getElementById("answer");
let asked = 0;

export function listen() {
  const start = () => explain(document.getElementById("number").value.trim(), document.getElementById("moment").value);
  document.getElementById("explain").addEventListener("click", start);
  for (const name of ["number", "moment"]) {
    document.getElementById(name).addEventListener("keydown", event => { if (event.key === "Enter") start(); });
  }
}

async function explain(number, past) {
  const mine = ++asked;
  const when = past ? new Date(past) : null;
  if (!number) return show(words(t("Type a number first.")));
  if (when && Number.isNaN(when.valueOf())) return show(words(t("This is no moment.")));
  const path = `v1/numbers/${encodeURIComponent(number)}`;
  const query = when ? `?as_of=${encodeURIComponent(when.toISOString().replace(/\.\d+Z$/, "Z"))}` : "";
  try {
    let [status, told] = await read(`${path}/explanation${query}`);
    const isHidden = status === 403;
    if (isHidden && !when) [status, told] = await read(path);
    if (mine !== asked) return;
    if (told.answer) show(...steps(told));
    else if (told.outcome && isHidden) show(line(told), words(t("The steps and the history are not shown to this client.")));
    else if (isHidden && when) show(words(t("The past of numbers is not shown to this client.")));
    else if (status === 403) show(words(t("This is not shown to this client.")));
    else show(words(told.error ?? t("The daemon said nothing.")));
  } catch {
    if (mine === asked) show(words(t("The daemon does not answer.")));
  }
}

async function read(path) {
  const reply = await get(path);
  return [reply.status, await reply.json()];
}

function show(...nodes) {
  answer.replaceChildren(...nodes);
}

function words(text) {
  return make("p", {class: "words"}, text);
}

function line(told) {
  const parts = [told.number, outcomeWords(told.outcome), told.operator ?? told.network_code, told.routing_number && `rn ${told.routing_number}`];
  if (told.restriction) parts.push(t("{measure} until {moment}", {measure: measureWords(told.restriction.kind), moment: moment(told.restriction.until)}));
  return make("p", {class: "answered", id: "answered"}, ...parts.filter(Boolean).map(part => make("span", {}, `${part} `)));
}

function steps(told) {
  const final = told.answer;
  const rows = [
    [t("Kind"), told.kind ?? "–"],
    [t("Range"), told.range ? `${told.range.prefix}, ${told.range.holder.operator ?? told.range.holder.network_code}` : t("of nobody")],
    [t("Ported"), told.ported ? portedWords(told.ported) : t("no")],
    [t("Network code"), final.network_code ?? "–"],
    [t("Serial"), count(final.serial)],
  ];
  if (told.as_of) rows.push([t("Answered so from"), moment(told.as_of.applied_at)], [t("until"), told.as_of.until ? moment(told.as_of.until) : t("now")]);
  else rows.push([t("Age of the data"), final.age_seconds == null ? "–" : span(final.age_seconds)]);
  if (told.reason) rows.push([t("Reason"), told.reason]);
  if (told.damaged) rows.push([t("Damaged"), told.damaged]);
  const found = [line(final), pairs(rows)];
  if (told.restrictions?.length) found.push(heading(t("Restrictions")), list(told.restrictions, restrictionParts));
  if (told.pending?.length) found.push(heading(t("Agreed for later")), list(told.pending, each => [moment(each.effective_at), kindWords(each.kind)]));
  if (told.history) found.push(heading(t("History")), told.history.length ? list(told.history, historyParts) : words(t("No change is kept.")));
  const spoken = (told.dialects ?? []).flatMap(dialectRows);
  if (spoken.length) found.push(heading(t("What each dialect says")), pairs(spoken));
  return found;
}

function heading(text) {
  return make("h4", {}, text);
}

function portedWords(state) {
  const when = state.ported_at ? t("{moment}, to {network}", {moment: moment(state.ported_at), network: stateWords(state)}) : stateWords(state);
  return state.donor ? t("{words}, from {network}", {words: when, network: state.donor}) : when;
}

function restrictionParts(each) {
  const state = {waits: t("not begun"), in_force: t("in force"), lapsed: t("lapsed")}[each.state];
  return [measureWords(each.kind), state, `${each.authority} ${each.case}`, `${moment(each.from)} – ${moment(each.until)}`, each.extended && t("extended")];
}

function historyParts(entry) {
  const restriction = entry.restriction ? `${measureWords(entry.restriction.kind)} ${entry.restriction.authority} ${entry.restriction.case}` : "";
  const change = changesRoute(entry) ? `${stateWords(entry.old[0])} → ${stateWords(entry.new)}` : restriction;
  return [moment(entry.applied_at), kindWords(entry.kind), change, entry.feed && `${entry.feed} ${entry.sequence}`, entry.ref];
}

function dialectRows(entry) {
  return Object.entries(entry).filter(([name]) => name !== "clients").map(([name, value]) => [name, plain(value) || "–"]);
}

function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join("; ");
  if (value && typeof value === "object") return Object.entries(value).filter(each => each[1] != null).map(([name, each]) => `${name} ${plain(each)}`).join(", ");
  return String(value ?? "");
}

function list(items, parts) {
  return make("ol", {class: "lines"}, ...items.map(item => make("li", {}, ...parts(item).filter(Boolean).map(part => make("span", {}, `${part} `)))));
}
