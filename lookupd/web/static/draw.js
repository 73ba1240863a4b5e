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
  const now = JSON.stringify(what);
  if (shown.get(node) === now) return;
  shown.set(node, now);
  node.replaceChildren(...build());
}

export function forget(...nodes) {
  for (const node of nodes) shown.delete(node);
}

export function pairs(rows) {
  const list = make("dl");
  for (const [name, value, kind] of rows) {
    const attributes = kind ? {class: kind} : {};
    list.append(make("dt", attributes, name), make("dd", attributes, value));
  }
  return list;
}

export function standing(state, words, tag = "p") {
  return make(tag, {class: "standing", "data-state": state},
    make("span", {class: "sign", "aria-hidden": "true"}), make("span", {class: "says"}, words));
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
  if (!total) drawn.append(shape("rect", {class: "part-2", x: 0, y: 4, width: 1000, height: 2}));
  return drawn;
}

// What is used of a limit, from the left; marks where half, and where four fifths of it are gone.
export function gauge(share, words) {
  const drawn = shape("svg", {viewBox: "0 0 1000 20", preserveAspectRatio: "none", role: "img", "aria-label": words});
  drawn.append(
    shape("rect", {class: "track", x: 0, y: 3, width: 1000, height: 14}),
    shape("rect", {class: "used", x: 0, y: 3, width: 1000 * Math.min(Math.max(share, 0), 1), height: 14}),
    shape("line", {class: "mark", x1: 500, x2: 500, y1: 0, y2: 20}),
    shape("line", {class: "mark last", x1: 800, x2: 800, y1: 0, y2: 20}));
  return drawn;
}
