// What the page asks of the service.

// Refusal is an error of the service's.
export class Refusal extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

const silence = 60000; // ms; the service says something at least every 15 s

// Service is the service for one person. Nothing of the credential leaves this object but in requests.
export class Service {
  #token;
  #key;
  #wishes = { interactive: true, permission_mode: "default" }; // of turns, as far as is known to be allowed

  constructor(token, key) {
    this.#token = token;
    this.#key = key;
  }

  get #credential() {
    return this.#token.startsWith("sk-ant-oat") ? { oauth_credentials: { access_token: this.#token } } : { api_key: this.#token };
  }

  list = (after) => this.#json("GET", `v1/conversations?limit=30${after ? `&after=${encodeURIComponent(after)}` : ""}`);
  one = (id) => this.#json("GET", `v1/conversations/${id}`);
  messages = (id, before) => this.#json("GET", `v1/conversations/${id}/messages?limit=50${before ? `&before=${before}` : ""}`);
  fork = (id) => this.#json("POST", `v1/conversations/${id}/fork`, {});
  remove = (id) => this.#json("DELETE", `v1/conversations/${id}`);
  answer = (session, request, response) => this.#json("POST", "v1/messages/pooled/answer",
    { ...this.#credential, session_id: session, request_id: request, response });

  // turn runs one, and calls onEvent with each of its events until the end. To abort the signal ends it. It is asked
  // before tools run; onLess is called with the field of the request that the service doesn't allow.
  async turn(body, signal, onEvent, onLess) {
    const watch = new AbortController();
    const answer = await this.#begin(body, AbortSignal.any([signal, watch.signal]), onLess);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const timer = setTimeout(() => watch.abort(new Error("The service has gone silent.")), silence);
      const { value, done } = await reader.read().finally(() => clearTimeout(timer));
      if (done) throw new Error("The connection was lost before the end of the turn.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line === "data: [DONE]") return;
        if (line.startsWith("data: ")) onEvent(JSON.parse(line.slice(6)));
      }
    }
  }

  // begin asks for a turn with fewer wishes until the service allows them. Whatever it refuses has not begun.
  async #begin(body, signal, onLess) {
    for (;;) {
      try {
        return await this.#ask("POST", "v1/messages/pooled", { ...this.#credential, ...body, ...this.#wishes }, signal);
      } catch (error) {
        const refused = Object.keys(this.#wishes).find((field) => error.status === 400 && error.message.startsWith(`${field}:`));
        if (!refused) throw error;
        if (refused === "interactive") this.#wishes = {}; // where nobody is asked, the mode default would deny too much
        else delete this.#wishes[refused];
        onLess(refused);
      }
    }
  }

  async #json(method, address, body) {
    return (await this.#ask(method, address, body)).json();
  }

  async #ask(method, address, body, signal) {
    const headers = { authorization: `Bearer ${this.#token}` };
    if (this.#key) headers["x-claudepool-key"] = this.#key;
    if (body) headers["content-type"] = "application/json";
    const answer = await fetch(address, {
      method, headers, signal, body: body && JSON.stringify(body), cache: "no-store", redirect: "error", credentials: "omit",
    });
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    throw new Refusal(answer.status, said.error?.message ?? `The service answers with ${answer.status}.`,
      Number(answer.headers.get("retry-after")));
  }
}

// uuid is a new one. crypto.randomUUID is there on secure origins only.
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
