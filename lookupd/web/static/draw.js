// Elements. Text from anywhere goes in as text alone: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, attributes = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside.map(each => typeof each === "string" ? document.createTextNode(each) : each));
  return node;
}

export function shape(tag, attributes = {}, ...inside) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Made anew only when what it shows has changed: who reads or copies is not disturbed each second.
const shown = new WeakMap();
export function fill(node, what, build) {
  const now = JSON.stringify([what, document.documentElement.lang]);
  if (shown.get(node) === now) return;
  shown.set(node, now);
  node.replaceChildren(...build());
}

export function pairs(rows, kind = "facts") {
  return make("dl", {class: kind}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

export function sign() {
  return make("span", {class: "sign", "aria-hidden": "true"});
}

export function standing(state, words, tag = "p") {
  return make(tag, {class: "standing", "data-state": state}, sign(), make("span", {class: "says"}, words));
}

// Parts of a whole, side by side; their numbers stand beside it in words.
export function bar(parts) {
  const total = parts.reduce((sum, part) => sum + part.value, 0);
  const drawn = shape("svg", {class: "bar", viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true"});
  let at = 0;
  for (const part of total ? parts : []) {
    const width = 1000 * part.value / total;
    if (width) drawn.append(shape("rect", {class: part.name, x: at, y: 0, width: Math.max(width - 2, 1), height: 10}));
    at += width;
  }
  if (!total) drawn.append(shape("rect", {class: "track", x: 0, y: 4, width: 1000, height: 2}));
  return drawn;
}

// Values over the last `width` seconds, the newest at the right; a gap where there is none.
export function trend(points, now, width) {
  const top = Math.max(1, ...points.map(([, value]) => value ?? 0)) * 1.15;
  const drawn = shape("svg", {class: "trend", viewBox: `0 0 ${width} 100`, preserveAspectRatio: "none", "aria-hidden": "true"});
  let run = [];
  for (const [at, value] of [...points, [now, null]]) {
    if (value != null) { run.push([(width - (now - at)).toFixed(1), (100 - 100 * value / top).toFixed(1)]); continue; }
    if (run.length > 1) {
      const line = `M${run.map(point => point.join(" ")).join("L")}`;
      drawn.append(shape("path", {class: "area", d: `${line}L${run.at(-1)[0]} 100L${run[0][0]} 100Z`}), shape("path", {class: "line", d: line}));
    }
    run = [];
  }
  return drawn;
}

// What is used of a limit, from the left; marks where half, and where four fifths of it are gone.
export function gauge(share, words) {
  const used = 1000 * Math.min(Math.max(share, 0), 1);
  const drawn = shape("svg", {class: "gauge", viewBox: "0 0 1000 20", preserveAspectRatio: "none", role: "img", "aria-label": words});
  drawn.append(
    shape("rect", {class: "track", x: 0, y: 4, width: 1000, height: 12}),
    shape("rect", {class: "used", x: 0, y: 4, width: used, height: 12}),
    shape("line", {class: "mark half", x1: 500, x2: 500, y1: 0, y2: 20}),
    shape("line", {class: "mark", x1: 800, x2: 800, y1: 0, y2: 20}));
  return drawn;
}
