// Puts the page together: the token, the stream, and what is seen of both.

import { Feed } from "./feed.js";
import { element, span, write } from "./text.js";
import { View } from "./view.js";

const stored = "claudepool.stats-token"; // in the tab's own storage, which ends with the tab

const view = new View();
const feed = new Feed({ onStats: show, onHeard: heard, onState: tell });
let state = "connecting";
let lastHeard = 0; // when the service said something last, in ms
let nextTry = 0;

const words = {
  connecting: "Connecting…", live: "Live", stale: "Stale", lost: "Connection lost", full: "Too many readers", refused: "Token needed",
  paused: "Paused",
};

function show(stats) {
  element("access").hidden = true;
  element("pool").hidden = false;
  element("forget").hidden = !sessionStorage.getItem(stored);
  view.show(stats);
}

function heard() {
  lastHeard = performance.now();
}

function tell(told, next = 0) {
  nextTry = next;
  if (told === "refused") ask(sessionStorage.getItem(stored) !== null);
  const now = told === "live" && view.isStale ? "stale" : told;
  if (now !== state) {
    state = now;
    element("state").dataset.state = now;
    document.body.dataset.state = now;
    write(element("state-text"), words[now]);
  }
  tick();
}

// tick says how fresh what is shown is. It is no part of the state, which a screen reader tells of each time.
function tick() {
  const since = lastHeard ? span((performance.now() - lastHeard) / 1000) : "";
  const again = span((nextTry - Date.now()) / 1000);
  write(element("freshness"), {
    lost: since ? `${since} ago, next try in ${again}` : `next try in ${again}`, full: `next try in ${again}`,
  }[state] ?? "");
  view.tick();
}

// ask shows the field for the token instead of the pool, and says so if the one that was given is wrong.
function ask(isWrong) {
  sessionStorage.removeItem(stored);
  view.clear();
  lastHeard = 0;
  element("pool").hidden = true;
  element("forget").hidden = true;
  element("access").hidden = false;
  write(element("refusal"), isWrong ? "That is not the stats token. Nothing is shown without it." : "");
  element("token").setAttribute("aria-invalid", isWrong);
  element("token").value = "";
  element("token").focus();
}

element("access").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = element("token").value.trim();
  if (!/^[!-~]+$/.test(token)) { // what no header can carry is no token
    ask(true);
    return;
  }
  sessionStorage.setItem(stored, token);
  feed.start(token);
});

element("forget").addEventListener("click", () => {
  feed.stop();
  sessionStorage.removeItem(stored);
  tell("refused");
});

document.addEventListener("visibilitychange", () => {
  if (state === "refused") return;
  if (document.hidden) feed.pause();
  else feed.resume();
});

setInterval(tick, 1000);
feed.start(sessionStorage.getItem(stored) ?? "");
if (document.hidden) feed.pause(); // opened in the background
