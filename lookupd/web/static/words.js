// Texts: English is the key; another language comes as one object. And how numbers, spans and moments are written.

let messages = {};
let language = "en";
let complete = true;
const originals = new WeakMap();

export async function useLanguage(chosen) {
  language = chosen;
  let found = {};
  let whole = true;
  if (chosen !== "en") {
    try {
      const reply = await fetch(`messages/${chosen}.json`, {signal: AbortSignal.timeout(5000)});
      if (reply.ok) found = await reply.json();
    } catch { whole = false; /* English, until the daemon answers */ }
  }
  if (language !== chosen) return;  // another one was chosen meanwhile
  messages = found;
  complete = whole;
  document.documentElement.lang = chosen === "zh-TW" ? "zh-Hant-TW" : "en";
  for (const node of document.querySelectorAll("[data-t]")) {
    if (!originals.has(node)) originals.set(node, node.textContent);
    node.textContent = t(originals.get(node));
  }
}

export function isComplete() {
  return complete;
}

export function t(text, values = {}) {
  const found = Object.hasOwn(messages, text) ? messages[text] : text;
  return found.replace(/\{(\w+)\}/g, (whole, name) => Object.hasOwn(values, name) ? String(values[name]) : whole);
}

export function count(value) {
  return value == null ? "–" : new Intl.NumberFormat(language, {maximumFractionDigits: 1}).format(value);
}

export function rate(value) {
  return value == null ? "–" : new Intl.NumberFormat(language, {maximumFractionDigits: value < 100 ? 1 : 0}).format(value);
}

export function seconds(value) {
  if (value == null) return "–";
  if (value < 1e-3) return `${(value * 1e6).toFixed(value < 1e-5 ? 1 : 0)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 1 : 0)} ms`;
  return value < 60 ? `${value.toFixed(value < 10 ? 1 : 0)} s` : span(value);
}

export function span(value) {
  const whole = Math.max(0, Math.round(value));
  if (whole < 100) return t("{n} s", {n: whole});
  if (whole < 3600) return t("{m} min {s} s", {m: Math.floor(whole / 60), s: whole % 60});
  if (whole < 172800) return t("{h} h {m} min", {h: Math.floor(whole / 3600), m: Math.floor(whole % 3600 / 60)});
  return t("{d} days", {d: Math.floor(whole / 86400)});
}

export function hours(value) {
  return value % 3600 || value >= 172800 ? span(value) : t("{n} h", {n: value / 3600});
}

// The same in each language: with its date unless it is today's, in the time of who looks.
export function moment(text) {
  if (text == null) return "–";
  const then = new Date(text);
  return dayOf(then) === dayOf(new Date()) ? timeOfDay(then) : `${dayOf(then)} ${timeOfDay(then)}`;
}

export function dayOf(date) {
  return [date.getFullYear(), date.getMonth() + 1, date.getDate()].map(two).join("-");
}

export function timeOfDay(date) {
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
}

function two(value) {
  return String(value).padStart(2, "0");
}
