// How what was said is shown: texts with their code, and long ones cut.

import { make } from "../pool/text.js";

const mostShown = 20000; // characters of what a tool gets or says

// Prose is a text that may still be growing. Code between fences and backquotes is set as such, the rest as it is.
export class Prose {
  element = make("div", "prose");
  #text = "";
  #due = 0;

  add(text) {
    this.#text += text;
    this.#due ||= requestAnimationFrame(() => this.#draw());
    return this;
  }

  #draw() {
    this.#due = 0;
    const parts = this.#text.split(/^```(.*)$/m); // text, what follows the fence, code, what follows the next fence, …
    const nodes = [];
    for (let i = 0; i < parts.length; i += 2) {
      const text = parts[i].replace(/^\n/, "");
      if ((i / 2) % 2 === 1) nodes.push(code(text.replace(/\n$/, ""), parts[i - 1].trim()));
      else if (text.trim()) nodes.push(paragraph(text.trim()));
    }
    this.element.replaceChildren(...nodes);
  }
}

function paragraph(text) {
  const made = make("p");
  text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).forEach((part) => {
    if (/^`.+`$/.test(part)) made.append(make("code", "", part.slice(1, -1)));
    else if (/^\*\*.+\*\*$/.test(part)) made.append(make("strong", "", part.slice(2, -2)));
    else made.append(part);
  });
  return made;
}

// code is a block that can be scrolled, also without a mouse. Of a text that is longer than most it has the beginning.
export function code(text, label = "", most = mostShown) {
  const made = make("pre");
  made.dataset.cut = text.length > most;
  made.tabIndex = 0;
  if (label) made.setAttribute("aria-label", label);
  made.append(make("code", "", text.length > most ? `${text.slice(0, most)}\n… ${text.length - most} more characters` : text));
  return made;
}

// inputOf is what a tool gets, as people read it: blocks of code, the command in one and below it whatever else there is.
export function inputOf(name, input, most = mostShown) {
  const { command, ...others } = input;
  const isCommand = name === "Bash" && typeof command === "string";
  const rest = Object.entries(isCommand ? others : input)
    .map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value, null, 2)}`).join("\n");
  const blocks = isCommand ? [code(command, "What it gets", most)] : [];
  if (rest) blocks.push(code(rest, isCommand ? "What else it gets" : "What it gets", most));
  return blocks;
}

// summaryOf is the one thing that tells most of it.
export function summaryOf(input) {
  const told = input.description ?? input.file_path ?? input.command ?? input.pattern ?? input.url ?? input.query ?? input.prompt;
  return typeof told === "string" ? told.split("\n")[0].slice(0, 120) : "";
}

// textOf is what a tool's result says.
export function textOf(content) {
  if (typeof content === "string") return content;
  return (content ?? []).map((b) => (b.type === "text" ? b.text : `[${b.type}]`)).join("\n");
}
