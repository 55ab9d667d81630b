// Writes the stats into the page.

import { Chart } from "./chart.js";
import { clock, count, element, latency, make, share, short, some, span, sync, write } from "./text.js";

const late = 35; // s; an instance writes a snapshot every 15 s at least
const firstUsers = 25;

const ways = [
  ["reused", "Reused", "the conversation's own"],
  ["standby", "Standby", "started in advance"],
  ["resumed", "Resumed", "from what was kept"],
  ["cold", "Cold", "started for the turn"],
];

// isNever says that the snapshots could not be read yet.
const isNever = (time) => time.startsWith("0001-");

const sum = (list, of) => list.reduce((all, one) => all + of(one), 0);

// View shows stats that came some time ago: ages go on meanwhile.
export class View {
  #chart = new Chart(element("chart"), element("reading"));
  #stats = null;
  #came = 0; // when, by the browser's own clock, in ms
  #allUsers = false;

  constructor() {
    element("users-all").addEventListener("click", () => {
      this.#allUsers = !this.#allUsers;
      this.#users(this.#stats, this.#since());
    });
  }

  show(stats) {
    this.#stats = stats;
    this.#came = performance.now();
    this.#overview(stats);
    this.#firstToken(stats.first_token, isNever(stats.as_of) ? Date.now() : Date.parse(stats.as_of));
    this.#served(stats.instances);
    this.tick();
  }

  get isStale() {
    return this.#stats?.stale ?? false;
  }

  // clear takes everything out, as for another token.
  clear() {
    this.#stats = null;
    for (const id of ["instances", "users", "minutes", "served", "notice"]) element(id).replaceChildren();
    element("notice").hidden = true;
  }

  // tick brings up to date what changes by itself.
  tick() {
    if (!this.#stats) return;
    const since = this.#since();
    this.#notice(this.#stats);
    this.#instances(this.#stats.instances, since);
    this.#users(this.#stats, since);
  }

  #since() {
    return (performance.now() - this.#came) / 1000;
  }

  #notice(stats) {
    let text = "";
    if (stats.stale && isNever(stats.as_of)) {
      text = "The snapshots of the instances can't be read: Firestore doesn't answer. Requests are not affected.";
    } else if (stats.stale) {
      const when = clock(stats.as_of, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
      text = `What you see is of ${when}: Firestore hasn't answered since. Requests are not affected.`;
    } else if (stats.instances.length === 0) {
      text = "No instance is alive. Requests for turns are answered with 503 until one has started and told of itself.";
    } else if (stats.instances.every((i) => i.draining)) {
      text = "All instances are draining. New users are answered with 503 until another one has started.";
    }
    const notice = element("notice");
    notice.hidden = text === "";
    write(notice, text);
  }

  #overview({ instances, active_users: users }) {
    const draining = instances.filter((i) => i.draining).length;
    write(element("instances-count"), count(instances.length));
    write(element("instances-more"), draining ? `${count(draining)} draining` : "none draining");

    const processes = sum(instances, (i) => i.processes);
    const busy = sum(instances, (i) => i.busy);
    write(element("processes-count"), count(processes));
    write(element("processes-more"),
      `${count(busy)} busy, ${count(processes - busy)} idle, of ${count(sum(instances, (i) => i.capacity))}`);

    const standby = sum(instances, (i) => i.standby);
    const parked = sum(instances, (i) => i.parked);
    write(element("spares-count"), count(standby + parked));
    write(element("spares-more"), `${count(standby)} standby, ${count(parked)} parked`);

    const queued = sum(instances, (i) => i.queued);
    const pending = sum(instances, (i) => i.pending);
    write(element("waiting-count"), count(queued + pending));
    write(element("waiting-more"), `${count(queued)} queued, ${count(pending)} pending`);

    write(element("users-count"), count(users.length));
    write(element("users-more"), `${count(users.filter((u) => u.busy).length)} with a turn now`);
  }

  #firstToken(stats, now) {
    const period = some(stats.period / 60, "minute");
    write(element("first-token-about"), stats.count
      ? `From the request on, ${some(stats.count, "turn")} in the last ${period}.`
      : `No turn in the last ${period}.`);
    for (const name of ["p50", "p95", "p99"]) {
      write(element(name), stats.count ? latency(stats[name]) : "–");
    }
    this.#chart.show(stats.minutes, now);
    sync(element("minutes"), stats.minutes.toReversed(), (m) => m.start, () => row(5), (tr, m) => {
      fill(tr, [clock(m.start), count(m.count), latency(m.p50), latency(m.p95), latency(m.p99)]);
    });
  }

  #served(instances) {
    const all = ways.map(([name, title, about]) => ({
      name, title, about, n: sum(instances, (i) => i.served[name]),
    }));
    const turns = sum(all, (way) => way.n);
    write(element("served-about"), turns
      ? `${some(turns, "turn")} since these instances started.`
      : "No turn since these instances started.");
    bar(element("served-bar"), all.map(({ name, n }) => [name, n]));
    sync(element("served"), all, (way) => way.name, servedRow, (tr, way) => {
      tr.firstChild.firstChild.className = `swatch ${way.name}`;
      write(tr.querySelector(".name"), way.title);
      write(tr.querySelector(".why"), way.about);
      write(tr.children[1], count(way.n));
      write(tr.children[2], share(way.n, turns));
    });
  }

  #instances(list, since) {
    element("instances-section").hidden = list.length === 0;
    sync(element("instances"), list, (i) => i.id, instanceCard, (card, i) => {
      const age = i.age + since;
      const state = i.draining ? "draining" : age > late ? "silent" : "serving";
      const badge = card.querySelector(".badge");
      badge.dataset.state = state;
      write(badge, { draining: "Draining", silent: "Silent", serving: "Serving" }[state]);
      write(card.querySelector(".name"), i.id);
      write(card.querySelector(".age"), state === "silent"
        ? `no snapshot for ${span(age)}: it ended without a word, or can't reach Firestore`
        : `snapshot ${span(age)} ago`);
      const idle = i.processes - i.busy;
      bar(card.querySelector(".bar"), [["busy", i.busy], ["idle", idle], ["pending", i.pending],
        ["free", Math.max(0, i.capacity - i.processes - i.pending)]]);
      write(card.querySelector(".load"), `${count(i.processes)} of ${some(i.capacity, "process", "processes")}: ` +
        `${count(i.busy)} busy, ${count(idle)} idle, ${count(i.pending)} pending`);
      sync(card.querySelector(".facts"), facts(i), ([name]) => name, factOf, (fact, [name, n, more]) => {
        write(fact.children[0], name);
        write(fact.children[1], count(n));
        write(fact.children[2], more);
      });
      const protections = Object.entries(i.protections ?? {}).sort();
      sync(card.querySelector(".protections"), protections, ([name]) => name, () => make("li"), protection);
    });
  }

  #users({ active_users: users }, since) {
    const sorted = users.toSorted((a, b) => b.busy - a.busy || a.idle_time - b.idle_time ||
      a.user_id.localeCompare(b.user_id));
    const shown = this.#allUsers ? sorted : sorted.slice(0, firstUsers);
    write(element("users-about"), users.length
      ? `${some(users.length, "user")} with a process, those used last first. An id is the beginning of its token's hash.`
      : "Nobody has a process now.");
    element("users-table").hidden = users.length === 0;
    sync(element("users"), shown, (u) => `${u.user_id} ${u.instance}`, () => row(5, ["id", "", "", "roomy", "id"]), (tr, u) => {
      const state = !u.alive ? "process ended" : u.busy ? "in a turn" : `idle ${span(u.idle_time + since)}`;
      tr.dataset.busy = u.busy;
      fill(tr, [short(u.user_id), state, count(u.processes), span(u.uptime + since), short(u.instance)]);
    });
    const more = element("users-all");
    more.hidden = users.length <= firstUsers;
    write(more, this.#allUsers ? "Show fewer" : `Show all ${count(users.length)}`);
  }
}

const facts = (i) => [
  ["Standby", i.standby, `${count(i.standby_misses)} missed`],
  ["Parked", i.parked, `${count(i.parked_misses)} missed`],
  ["Queued", i.queued, ""],
];

// row is a table's with its head.
function row(cells, classes = []) {
  const tr = make("tr");
  for (let i = 0; i < cells; i++) {
    const cell = make(i === 0 ? "th" : "td", classes[i]);
    if (i === 0) cell.scope = "row";
    tr.append(cell);
  }
  return tr;
}

const fill = (tr, texts) => texts.forEach((text, i) => write(tr.children[i], text));

function servedRow() {
  const tr = row(3);
  tr.firstChild.append(make("span", "swatch"), make("span", "name"), make("span", "why"));
  return tr;
}

function instanceCard() {
  const card = make("li", "card");
  const head = make("h3");
  head.append(make("span", "name id"), make("span", "badge"));
  const strip = make("div", "bar");
  strip.ariaHidden = "true"; // the line below says the same
  const protections = make("ul", "protections");
  protections.ariaLabel = "Protections";
  card.append(head, make("p", "age"), strip, make("p", "load"), make("dl", "facts"), protections);
  return card;
}

function factOf() {
  const fact = make("div");
  fact.append(make("dt"), make("dd"), make("dd", "more"));
  return fact;
}

function protection(li, [name, holds]) {
  li.className = holds ? "holds" : "missing";
  write(li, holds ? name : `${name} not in force`);
}

// bar shows parts of a whole by their widths.
function bar(place, parts) {
  sync(place, parts, ([name]) => name, () => make("span"), (part, [name, n]) => {
    part.className = name;
    part.style.flexGrow = n;
  });
}
