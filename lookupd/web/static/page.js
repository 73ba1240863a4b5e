// Asks the daemon each second and shows what it says; when it says nothing, that is shown, and it is asked again.

import {listen} from "./ask.js";
import {say} from "./draw.js";
import {showFeeds, showNotices} from "./feeds.js";
import {showReplicas} from "./replicas.js";
import {span, t, timeOfDay, useLanguage} from "./words.js";

const EVERY = 1000;
const PATIENCE = 5000;
const LONGEST = 15000;
const SLOW_EVERY = 3;

const PARTS = [
  {path: "v1/status", show: showReplicas, words: "pair-words", every: 1},
  {path: "v1/feeds", show: showFeeds, words: "feeds-words", every: 1},
  {path: "v1/notices", show: showNotices, words: "notices-words", every: SLOW_EVERY},
];

let heardAt = null;
let failed = 0;
const last = new Map();

async function ask(part) {
  const reply = await fetch(part.path, {cache: "no-store", signal: AbortSignal.timeout(PATIENCE)});
  const told = await reply.json();
  if (reply.status === 403 || reply.status === 401) say(document.getElementById(part.words), t("This is not shown to this client."));
  else if (reply.ok) { last.set(part, told); part.show(told); }
  else say(document.getElementById(part.words), told.error ?? String(reply.status));
}

async function round(number) {
  const due = PARTS.filter(part => number % part.every === 0 || !last.has(part));
  const done = await Promise.allSettled(due.map(ask));
  const broken = done.find(each => each.status === "rejected");
  if (broken) failed += 1;
  else { failed = 0; heardAt = Date.now(); }
  showLive();
}

function showLive() {
  const live = document.getElementById("live");
  live.dataset.state = failed ? "bad" : heardAt ? "good" : "asking";
  let words = t("Asking the daemon");
  if (failed && heardAt) words = t("No answer; what stands here is {span} old", {span: span((Date.now() - heardAt) / 1000)});
  else if (failed) words = t("The daemon does not answer");
  else if (heardAt) words = t("Live");
  say(document.getElementById("live-words"), words);
}

async function run() {
  for (let number = 0; ; number += 1) {
    await round(number);
    const wait = failed ? Math.min(EVERY * 2 ** (failed - 1), LONGEST) : EVERY;
    await new Promise(done => setTimeout(done, wait));
  }
}

function tick() {
  const now = new Date();
  say(document.getElementById("local"), timeOfDay(now));
  say(document.getElementById("utc"), `${timeOfDay(now, "UTC")} UTC`);
  if (failed) showLive();
}

function chooseLanguage() {
  const known = ["en", "zh-TW"];
  const asked = new URLSearchParams(location.search).get("lang");
  let kept = null;
  try { kept = localStorage.getItem("language"); } catch { /* a browser may forbid it */ }
  for (const wish of [asked, kept, ...navigator.languages]) {
    if (known.includes(wish)) return wish;
    if (/^zh-(TW|HK|MO|Hant)/i.test(wish ?? "")) return "zh-TW";
    if (/^en\b/i.test(wish ?? "")) return "en";
  }
  return "en";
}

async function speak(language) {
  await useLanguage(language);
  for (const [part, told] of last) part.show(told);
  showLive();
  tick();
}

const choice = document.getElementById("language");
choice.value = chooseLanguage();
choice.addEventListener("change", () => {
  try { localStorage.setItem("language", choice.value); } catch { /* then it is for this time */ }
  speak(choice.value);
});
listen();
await speak(choice.value);
setInterval(tick, 1000);
run();
