// The way of one request as a list of steps, each an arrow between two of phone, broker and lamp.

const steps = document.getElementById("steps");

export function clear() {
  steps.replaceChildren();
}

// `at` is in milliseconds since the request; without it nobody in this browser could see when it happened.
export function step(from, to, text, { at, kind = "", detail = "" } = {}) {
  const row = document.createElement("li");
  row.className = `step ${kind}`;
  row.style.setProperty("--delay", `${steps.childElementCount * 110}ms`);

  const line = document.createElement("p");
  const who = document.createElement("span");
  who.className = "sr";
  who.textContent = `${from} to ${to}: `;
  const what = document.createElement("span");
  what.textContent = text;
  const when = document.createElement("time");
  when.textContent = at === undefined ? "" : `${at.toFixed(1)} ms`;
  line.append(who, what, when);
  row.append(line);

  if (detail) {
    const more = document.createElement("p");
    more.className = "dim detail";
    more.textContent = detail;
    row.append(more);
  }
  const way = document.createElement("div");
  way.className = `way ${from}-${to}`;
  way.append(document.createElement("i"));
  row.append(way);
  steps.append(row);
}
