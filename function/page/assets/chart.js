// The chart of the times to the first token.

import { clock, latency, write } from "./text.js";

const minutes = 15;
const series = ["p50", "p95", "p99"];
const dashes = { p50: [], p95: [7, 4], p99: [2, 3] }; // as colours alone don't tell everybody which is which
const height = 210;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Chart keeps uPlot's chart as wide as its place, and in the colours of the page.
export class Chart {
  #place;
  #reading;
  #plot = null;
  #data = [[], [], [], []];

  constructor(place, reading) {
    this.#place = place;
    this.#reading = reading;
    new ResizeObserver(() => this.#resize()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  // show takes the minutes that had turns, as of a moment by the service's clock; those without any are gaps.
  show(list, now) {
    const last = Math.floor(now / 60000) * 60;
    const found = new Map(list.map((m) => [Date.parse(m.start) / 1000, m]));
    const times = Array.from({ length: minutes }, (_, i) => last - (minutes - 1 - i) * 60);
    this.#data = [times, ...series.map((name) => times.map((t) => found.get(t)?.[name] ?? null))];
    if (this.#plot) this.#plot.setData(this.#data);
    else this.#draw();
  }

  #resize() {
    if (this.#plot) this.#plot.setSize({ width: this.#place.clientWidth, height });
    else this.#draw();
  }

  #draw() {
    this.#plot?.destroy();
    this.#plot = null;
    if (this.#place.clientWidth === 0 || this.#data[0].length === 0) return;
    this.#plot = new uPlot(this.#options(), this.#data, this.#place);
    this.#read(null);
  }

  // read says in words what is under the pointer.
  #read(at) {
    const values = series.map((name, i) => [name, this.#data[i + 1][at]]);
    const known = values.every(([, value]) => value != null);
    write(this.#reading, at == null ? "Each point is a minute." : `${clock(this.#data[0][at] * 1000)}: ` +
      (known ? values.map(([name, value]) => `${name} ${latency(value)}`).join(", ") : "no turn"));
  }

  #options() {
    const axis = {
      stroke: colour("--muted"), font: `11px ${colour("--sans")}`,
      grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false },
    };
    return {
      width: this.#place.clientWidth, height, padding: [8, 18, 0, 0],
      cursor: { y: false, drag: { setScale: false }, points: { size: 7 } },
      legend: { show: false },
      hooks: { setCursor: [(plot) => this.#read(plot.cursor.idx)] },
      scales: { x: { time: true }, y: { range: (_, __, most) => [0, Math.max(0.1, (most ?? 0) * 1.15)] } },
      axes: [
        { ...axis, size: 28, space: 70, values: (_, ticks) => ticks.map((t) => clock(t * 1000)) },
        { ...axis, size: 58, space: 34, values: (_, ticks) => ticks.map((t) => (t === 0 ? "0" : latency(t))) },
      ],
      series: [
        {},
        ...series.map((name) => ({
          stroke: colour(`--${name}`), width: 2, dash: dashes[name], points: { size: 5 },
        })),
      ],
    };
  }
}
