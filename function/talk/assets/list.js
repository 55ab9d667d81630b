// The list of the person's conversations.

import { make, sync, write } from "../pool/text.js";

const times = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const units = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

// ago is how long ago a moment was, as people say it.
function ago(moment) {
  const seconds = (Date.parse(moment) - Date.now()) / 1000;
  const [unit, size] = units.find(([, s]) => Math.abs(seconds) >= s) ?? units.at(-1);
  return Math.abs(seconds) < 45 ? "now" : times.format(Math.round(seconds / size), unit);
}

// List shows conversations in an element, of which one is open. onOpen is called with one that is to be.
export class List {
  #place;
  #all = [];
  #open = "";

  constructor(place, onOpen) {
    this.#place = place;
    this.onOpen = onOpen;
  }

  // show has the list be these.
  show(all) {
    this.#all = all;
    this.#draw();
  }

  // add adds those that come after what is there.
  add(more) {
    const known = new Set(this.#all.map((c) => c.id));
    this.show(this.#all.concat(more.filter((c) => !known.has(c.id))));
  }

  open(id) {
    this.#open = id;
    this.#draw();
  }

  #draw() {
    sync(this.#place, this.#all, (c) => c.id, () => this.#fresh(), (item, c) => this.#fill(item, c));
  }

  #fresh() {
    const item = make("li");
    const open = make("button", "conversation");
    open.type = "button";
    open.append(make("span", "name"), make("span", "about"));
    open.addEventListener("click", () => this.onOpen(item.dataset.id));
    item.append(open);
    return item;
  }

  #fill(item, c) {
    item.dataset.id = c.id;
    const [open] = item.children;
    const [name, about] = open.children;
    write(name, c.title || "Untitled");
    write(about, c.pending.length > 0 ? "asks you something" : c.running ? "running" : ago(c.last_used));
    open.dataset.running = c.running;
    if (c.id === this.#open) open.setAttribute("aria-current", "true");
    else open.removeAttribute("aria-current");
  }
}
