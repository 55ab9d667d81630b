// Reads the stats' stream, and takes it up again whenever it ends or breaks.

const address = "v1/pool/stats/stream";
const silence = 15000; // ms; the service says something every 2 s
const pauses = [500, 1000, 2000, 5000, 10000]; // ms, after so many failures in a row

// Feed tells onStats of each set of stats, onHeard of each sign of life, and onState of a change: "connecting", "live",
// "lost" with the moment of the next try, "full", "refused", or "paused" while nobody looks.
export class Feed {
  #token = "";
  #attempt = null; // the AbortController of the present one
  #failures = 0;
  #timer = 0;

  constructor({ onStats, onHeard, onState }) {
    Object.assign(this, { onStats, onHeard, onState });
  }

  start(token) {
    this.stop();
    this.#token = token;
    this.#failures = 0;
    this.onState("connecting");
    this.#connect();
  }

  // stop ends the reading, without a word.
  stop() {
    clearTimeout(this.#timer);
    this.#attempt?.abort();
    this.#attempt = null;
  }

  // pause is for a page that nobody sees: it asks for nothing until it is resumed.
  pause() {
    this.stop();
    this.onState("paused");
  }

  resume() {
    this.start(this.#token);
  }

  async #connect() {
    const attempt = new AbortController();
    this.#attempt = attempt;
    let ended = false; // by the service's own word
    let status = 0;
    try {
      const answer = await this.#ask(attempt);
      status = answer.status;
      if (answer.ok) ended = await this.#read(answer.body, attempt);
      else await answer.body?.cancel();
    } catch {
      // as when the connection broke: it is told below
    }
    if (this.#attempt !== attempt) return; // somebody else reads by now, or nobody is to
    if (status === 401) {
      this.stop();
      this.onState("refused");
      return;
    }
    this.#again(ended, status);
  }

  async #ask(attempt) {
    const headers = this.#token ? { authorization: `Bearer ${this.#token}` } : {};
    const watch = setTimeout(() => attempt.abort(), silence);
    try {
      return await fetch(address, { headers, cache: "no-store", redirect: "error", signal: attempt.signal });
    } finally {
      clearTimeout(watch);
    }
  }

  // read takes events until the stream's end, and reports whether that was an explicit one.
  async #read(body, attempt) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const watch = setTimeout(() => attempt.abort(), silence);
      const { value, done } = await reader.read().finally(() => clearTimeout(watch));
      if (done || this.#attempt !== attempt) return false;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      this.#failures = 0;
      for (const line of lines) {
        if (line === "data: [DONE]") return true;
        if (line.startsWith("data: ")) this.onStats(JSON.parse(line.slice(6)));
      }
      this.onState("live");
      this.onHeard();
    }
  }

  #again(ended, status) {
    if (ended) { // as it does every half hour, and when a front is replaced
      this.#timer = setTimeout(() => this.#connect(), pauses[0] * Math.random());
      return;
    }
    const most = pauses[Math.min(this.#failures++, pauses.length - 1)];
    const pause = most * (0.75 + Math.random() / 4); // many pages that have lost the same front don't come at once
    this.onState(status === 429 ? "full" : "lost", Date.now() + pause);
    this.#timer = setTimeout(() => this.#connect(), pause);
  }
}
