// Requests to the daemon that this page is of.

const PATIENCE = 5000;
const page = new URL(document.baseURI);

// A screen on a wall, to which nobody logs in, has name and token in its address. A request's address may not have
// them, its header may.
function authorization() {
  if (!page.password) return {};
  const bytes = new TextEncoder().encode(`${decodeURIComponent(page.username)}:${decodeURIComponent(page.password)}`);
  return {Authorization: `Basic ${btoa(String.fromCharCode(...bytes))}`};
}

// Rejects when nothing comes in time.
export function get(path, cache = "no-store") {
  return fetch(new URL(path, page.origin + page.pathname), {cache, headers: authorization(), signal: AbortSignal.timeout(PATIENCE)});
}
