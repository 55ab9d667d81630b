// A conversation as the page has it. Its turn goes on while another one is open.

import { titleOf } from "./asks.js";
import { Log } from "./log.js";

// Conversation is one in which nothing has been said yet. answer gives one for its id and a request's, onAsked is called
// with it and what asks, onStatus when what is told of it is another.
export class Conversation {
  title = "";
  isKnown = false; // to the service
  before = 0; // of its messages
  status = "";
  running = null; // its turn's AbortController

  constructor(id, { answer, onAsked, onStatus }) {
    Object.assign(this, { id, onStatus });
    this.log = new Log({
      answer: (request, response) => answer(id, request, response),
      onAsked: (request, box) => {
        this.tell(titleOf(request));
        onAsked(this, box);
      },
    });
  }

  tell(text) {
    this.status = text;
    this.onStatus(this);
  }

  // take shows an event of its turn.
  take(e) {
    switch (e.type) {
      case "error":
        this.log.note(e.error.message, "bad");
        this.tell("");
        break;
      case "result":
        this.isKnown ||= !e.is_error;
        if (e.is_error) this.#failed(e.result ?? "");
        this.tell(e.is_error ? "" : `Done in ${(e.duration_ms / 1000).toFixed(1)} s.`);
        break;
      case "control_cancel_request":
        this.tell("Claude is at work…");
    }
    this.log.event(e);
  }

  #failed(why) {
    const told = this.log.element.textContent.includes(why) ? "" : why;
    this.log.note(`${told} The turn failed: the conversation goes on as if this had not been said.`, "bad");
  }
}
