// What is seen of a conversation: what was said before, and a turn while it runs.

import { make } from "../pool/text.js";
import { ask, end } from "./asks.js";
import { code, inputOf, Prose, summaryOf, textOf } from "./prose.js";

// Log shows messages in its element. onAsked is told when an answer is needed, answer gives one for a request's id.
export class Log {
  element = make("div", "messages");
  #tools = new Map(); // by the id of the call: its card
  #asks = new Map(); // by the id of the request: its element
  #blocks = new Map(); // of the API message that streams, by index
  #streamed = new Set(); // ids of API messages that came in parts

  constructor({ answer, onAsked }) {
    Object.assign(this, { answer, onAsked });
  }

  get isEmpty() {
    return this.element.childElementCount === 0;
  }

  // asks reports whether an answer is needed.
  get asks() {
    return [...this.#asks.values()].some((box) => !box.dataset.answered);
  }

  // say shows what the person says, and returns the element.
  say(text) {
    const said = this.#message("user", "You");
    said.append(new Prose().add(text).element);
    return said;
  }

  note(text, kind = "") {
    const made = make("p", `note ${kind}`, text);
    this.element.append(made);
    return made;
  }

  // before shows messages that were said before those that are there.
  before(messages) {
    const rest = [...this.element.childNodes];
    this.element.replaceChildren();
    for (const m of messages) this.#history(m);
    this.element.append(...rest);
  }

  #history({ role, content }) {
    const said = content.filter((b) => b.type !== "tool_result");
    const message = said.length > 0 && this.#message(role, role === "user" ? "You" : "Claude");
    for (const block of content) {
      if (block.type === "text") message.append(new Prose().add(block.text).element);
      else if (block.type === "thinking") this.#thinking(message).add(block.thinking);
      else if (block.type === "tool_use") this.#card(block, message).state("done", "");
      else if (block.type === "tool_result") this.#result(block);
      else message.append(make("p", "about", `[${block.type}]`));
    }
  }

  // event shows one of a running turn.
  event(e) {
    if (e.type === "control_request") this.asked(e.request_id, e.request);
    else if (e.type === "control_cancel_request") this.#withdrawn(e.request_id);
    else if (e.parent_tool_use_id) this.#ofSubagent(e);
    else if (e.type === "stream_event") this.#part(e.event);
    else if (e.type === "assistant") this.#whole(e.message);
    else if (e.type === "user") this.#results(e.message);
  }

  // over says that nothing more comes of the turn.
  over() {
    for (const id of this.#asks.keys()) this.#withdrawn(id);
    for (const card of this.#tools.values()) card.over();
  }

  // asked shows what the turn asks, at the call that it is about.
  asked(id, request) {
    if (this.#asks.has(id)) return;
    const card = request.tool_use_id && this.#tools.get(request.tool_use_id);
    const box = ask(request, (response) => this.answer(id, response));
    this.#asks.set(id, box);
    card?.state("asks", "needs your answer");
    (card ? card.element : this.element).append(box);
    this.onAsked(request, box);
  }

  #withdrawn(id) {
    const box = this.#asks.get(id);
    this.#asks.delete(id);
    if (box && !box.dataset.answered) end(box, "This isn't asked any more.");
  }

  #part(event) {
    const { index } = event;
    switch (event.type) {
      case "message_start":
        this.#blocks.clear();
        this.#streamed.add(event.message.id);
        break;
      case "content_block_start":
        this.#blocks.set(index, this.#begin(event.content_block));
        break;
      case "content_block_delta":
        this.#blocks.get(index)?.add?.(event.delta.text ?? event.delta.thinking ?? "");
    }
  }

  #begin(block) {
    const message = this.#answer();
    if (block.type === "thinking") return this.#thinking(message);
    if (block.type === "tool_use") return void this.#card(block, message);
    if (block.type !== "text") return null;
    const prose = new Prose();
    message.append(prose.element);
    return prose;
  }

  // whole is a message, or a part of one, as the CLI has it when it is there: with it come the inputs of calls.
  #whole(message) {
    for (const block of message.content) {
      if (block.type === "tool_use") this.#card(block, this.#answer()).fill(block);
      else if (block.type === "text" && !this.#streamed.has(message.id)) this.#answer().append(new Prose().add(block.text).element);
    }
  }

  #results(message) {
    if (!Array.isArray(message.content)) return;
    for (const block of message.content) if (block.type === "tool_result") this.#result(block);
  }

  #result(block) {
    this.#tools.get(block.tool_use_id)?.result(textOf(block.content), block.is_error);
  }

  // ofSubagent tells at the call that has begun the subagent which tools that calls.
  #ofSubagent(e) {
    if (e.type !== "assistant") return;
    for (const block of e.message.content) {
      if (block.type === "tool_use") this.#tools.get(e.parent_tool_use_id)?.state("runs", `${block.name} ${summaryOf(block.input)}`);
    }
  }

  #message(role, who) {
    const made = make("article", `message ${role}`);
    made.append(make("h2", "who", who));
    this.element.append(made);
    return made;
  }

  // answer is the message to which parts of the answer are added.
  #answer() {
    const last = this.element.lastElementChild;
    return last?.matches(".message.assistant") ? last : this.#message("assistant", "Claude");
  }

  #thinking(message) {
    const box = make("details", "thinking");
    const prose = new Prose();
    box.append(make("summary", "", "Thinking"), prose.element);
    message.append(box);
    return prose;
  }

  #card(block, message) {
    let card = this.#tools.get(block.id);
    if (!card) {
      card = new Card(block.name);
      this.#tools.set(block.id, card);
      message.append(card.element);
    }
    card.fill(block);
    return card;
  }
}

// Card is one call of a tool.
class Card {
  element = make("section", "tool");
  #name;
  #about = make("span", "summary");
  #state = make("span", "state");
  #details = make("details");
  #isFilled = false;

  constructor(name) {
    this.#name = name;
    this.element.setAttribute("aria-label", `Tool ${name}`);
    const summary = make("summary");
    summary.append(make("span", "name", name), this.#about, this.#state);
    this.#details.append(summary);
    this.element.append(this.#details);
    this.state("runs", "runs");
  }

  state(kind, text) {
    this.element.dataset.state = kind;
    this.#state.textContent = text;
  }

  fill({ input }) {
    if (this.#isFilled || Object.keys(input ?? {}).length === 0) return;
    this.#about.textContent = summaryOf(input);
    this.#isFilled = true;
    this.#details.append(...inputOf(this.#name, input));
  }

  result(text, isError) {
    this.state(isError ? "failed" : "done", isError ? "failed" : "done");
    this.#details.append(code(text || "(nothing)", "What it says"));
  }

  over() {
    if (this.element.dataset.state === "runs" || this.element.dataset.state === "asks") this.state("failed", "ended");
  }
}
