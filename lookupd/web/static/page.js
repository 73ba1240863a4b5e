// Asks the daemon each second and shows what it says; when it says nothing, that is shown, and it is asked again.

import {listen} from "./ask.js";
import {say} from "./draw.js";
import {hideFeeds, hideNotices, showFeeds, showNotices} from "./feeds.js";
import {hideReplicas, showReplicas} from "./replicas.js";
import {dayOf, isComplete, span, t, timeOfDay, useLanguage} from "./words.js";

const EVERY = 1000;
const PATIENCE = 5000;
const LONGEST = 15000;
const SLOW_EVERY = 3;
const SKEW_TOLD = 5000;

const PARTS = [
  {path: "v1/status", show: showStatus, hide: hideReplicas, every: 1},
  {path: "v1/feeds", show: showFeeds, hide: hideFeeds, every: 1},
  {path: "v1/notices", show: showNotices, hide: hideNotices, every: SLOW_EVERY},
];

let heardAt = null;
let failed = 0;
let againAt = null;
const last = new Map();

function showStatus(told) {
  showReplicas(told);
  const skew = Math.abs(Date.now() - new Date(told.now));
  const words = skew < SKEW_TOLD ? "" : t("The clock of this screen and the daemon's are {span} apart.", {span: span(skew / 1000)});
  say(document.getElementById("clock-words"), words);
}

// Throws where nothing came that a daemon says.
async function ask(part) {
  const reply = await fetch(part.path, {cache: "no-store", signal: AbortSignal.timeout(PATIENCE)});
  const told = await reply.json();
  last.set(part, {status: reply.status, told});
  showPart(part);
}

function showPart(part) {
  const {status, told} = last.get(part);
  if (status === 200) part.show(told);
  else part.hide(status === 403 ? t("This is not shown to this client.") : told.error ?? String(status));
}

// One request at a time: who is slow is not asked more.
async function round(number) {
  try {
    for (const part of PARTS.filter(each => number % each.every === 0 || !last.has(each))) await ask(part);
    if (!isComplete()) await speak(choice.value);
    failed = 0;
    heardAt = new Date();
  } catch (error) {
    failed += 1;
    if (!isSilence(error)) reportError(error);
  }
  showLive();
}

// A daemon that is away, slow, or cut off in the middle; anything else is a fault of this page.
function isSilence(error) {
  return error instanceof SyntaxError || error instanceof DOMException || (error instanceof TypeError && /fetch|network|load/i.test(error.message));
}

function showLive() {
  const state = failed ? "bad" : heardAt ? "good" : "asking";
  document.getElementById("live").dataset.state = document.body.dataset.state = state;
  let words = t("Asking the daemon");
  if (failed && heardAt) words = t("No answer since {time}", {time: timeOfDay(heardAt)});
  else if (failed) words = t("The daemon does not answer");
  else if (heardAt) words = t("Live");
  say(document.getElementById("live-words"), words);
  showMore();
}

// Beside what is read aloud: it changes each second.
function showMore() {
  let words = "";
  if (failed && heardAt) words = t("what stands here is {span} old", {span: span((Date.now() - heardAt) / 1000)});
  if (failed && againAt > Date.now()) words += `${words && ", "}${t("asked again in {n} s", {n: Math.ceil((againAt - Date.now()) / 1000)})}`;
  else if (heardAt) words = words || t("last data {time}", {time: timeOfDay(heardAt)});
  say(document.getElementById("live-more"), words);
}

async function run() {
  for (let number = 0; ; number += 1) {
    await round(number);
    const wait = failed ? Math.min(EVERY * 2 ** (failed - 1), LONGEST) : EVERY;
    againAt = Date.now() + wait;
    await new Promise(done => setTimeout(done, wait));
  }
}

function tick() {
  const now = new Date();
  say(document.getElementById("local"), `${dayOf(now)} ${timeOfDay(now)}`);
  say(document.getElementById("utc"), `${now.toISOString().slice(11, 19)} UTC`);
  showMore();
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
  for (const part of last.keys()) showPart(part);
  showLive();
  tick();
}

const choice = document.getElementById("language");
choice.value = chooseLanguage();
choice.addEventListener("change", () => {
  try { localStorage.setItem("language", choice.value); } catch { /* then it is for this time */ }
  history.replaceState(null, "", location.pathname);
  speak(choice.value);
});
listen();
await speak(choice.value);
setInterval(tick, 1000);
run();
