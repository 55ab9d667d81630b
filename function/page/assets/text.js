// How numbers and times are written, and how elements get their texts: by textContent, and in no other way.

export const element = (id) => document.getElementById(id);

// write changes a text only where it differs, so that a selection stays.
export function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// make is a new element with a class and a text.
export function make(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// sync has a parent's children be those of the items, in their order. Elements that were there stay, and with them
// focus and selection. fresh makes one, fill writes into it. Of items of the same key there may be several.
export function sync(parent, items, key, fresh, fill) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const times = new Map();
  let place = parent.firstElementChild;
  for (const item of items) {
    const time = times.get(key(item)) ?? 0;
    times.set(key(item), time + 1);
    const name = `${key(item)} ${time}`;
    let child = before.get(name);
    if (!child) {
      child = fresh();
      child.dataset.key = name;
    }
    before.delete(name);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    fill(child, item);
  }
  for (const gone of before.values()) gone.remove();
}

const whole = new Intl.NumberFormat("en");

export const count = (n) => whole.format(n);

// some is a number with its noun.
export const some = (n, one, more = `${one}s`) => `${count(n)} ${n === 1 ? one : more}`;

const unit = (n, name) => `${n}\u00a0${name}`; // which no line break comes between

// latency is a time of which milliseconds matter.
export function latency(seconds) {
  if (seconds < 1) return unit(Math.round(seconds * 1000), "ms");
  return unit(seconds < 100 ? seconds.toFixed(seconds < 10 ? 2 : 1) : Math.round(seconds), "s");
}

// span is a time of which they don't.
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return unit(s, "s");
  if (s < 3600) return `${unit(Math.floor(s / 60), "min")} ${unit(s % 60, "s")}`;
  if (s < 86400) return `${unit(Math.floor(s / 3600), "h")} ${unit(Math.floor((s % 3600) / 60), "min")}`;
  return `${unit(Math.floor(s / 86400), "d")} ${unit(Math.floor((s % 86400) / 3600), "h")}`;
}

export const clock = (time, options = { hour: "2-digit", minute: "2-digit" }) =>
  new Date(time).toLocaleTimeString("en-GB", options);

export const share = (part, all) => (all ? unit(((100 * part) / all).toFixed(part === all || part === 0 ? 0 : 1), "%") : "–");

// short is an id as far as people need it to tell it from others.
export const short = (id) => id.slice(0, 8);
