// Texts: English is the key; another language comes as one object. And how numbers, spans and moments are written.

let messages = {};
let language = "en";
const originals = new WeakMap();

export async function useLanguage(chosen) {
  language = chosen;
  messages = {};
  if (chosen !== "en") {
    try {
      const reply = await fetch(`messages/${chosen}.json`);
      if (reply.ok) messages = await reply.json();
    } catch { /* English is as good as the daemon's silence allows */ }
  }
  document.documentElement.lang = chosen === "zh-TW" ? "zh-Hant-TW" : "en";
  for (const node of document.querySelectorAll("[data-t]")) {
    if (!originals.has(node)) originals.set(node, node.textContent);
    node.textContent = t(originals.get(node));
  }
}

export function t(text, values = {}) {
  const found = Object.hasOwn(messages, text) ? messages[text] : text;
  return found.replace(/\{(\w+)\}/g, (whole, name) => Object.hasOwn(values, name) ? String(values[name]) : whole);
}

export function count(value) {
  return value == null ? "–" : new Intl.NumberFormat(language).format(value);
}

export function seconds(value) {
  if (value == null) return "–";
  if (value < 1e-3) return `${(value * 1e6).toFixed(value < 1e-5 ? 1 : 0)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 1 : 0)} ms`;
  return `${value.toFixed(value < 10 ? 1 : 0)} s`;
}

export function span(value) {
  const whole = Math.max(0, Math.round(value));
  if (whole < 100) return t("{n} s", {n: whole});
  if (whole < 3600) return t("{m} min {s} s", {m: Math.floor(whole / 60), s: whole % 60});
  if (whole < 172800) return t("{h} h {m} min", {h: Math.floor(whole / 3600), m: Math.floor(whole % 3600 / 60)});
  return t("{d} days", {d: Math.floor(whole / 86400)});
}

export function moment(text) {
  return text == null ? "–" : new Intl.DateTimeFormat(language, {dateStyle: "short", timeStyle: "medium"}).format(new Date(text));
}

export function timeOfDay(date, timeZone) {
  const options = {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone};
  return new Intl.DateTimeFormat(language, options).format(date);
}
