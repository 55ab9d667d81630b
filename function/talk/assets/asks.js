// What a turn asks of the person: whether a tool may run, and what the model wants to know.

import { make } from "../pool/text.js";
import { inputOf } from "./prose.js";

let made = 0; // for ids

function button(text, className, press) {
  const b = make("button", className, text);
  b.type = "button";
  b.addEventListener("click", press);
  return b;
}

// rulesOf are those of the CLI's suggestions that say which uses of the tool need no approval, for this conversation.
function rulesOf(request) {
  return (request.permission_suggestions ?? []).filter((s) => s.type === "addRules" && s.behavior === "allow")
    .map(({ type, behavior, rules }) => ({ type, behavior, rules, destination: "session" }));
}

// titleOf says in a line what is asked.
export function titleOf(request) {
  if (request.subtype === "elicitation" || request.tool_name === "AskUserQuestion") return "Claude asks you something.";
  return `${mayRun(request)} Your answer is needed.`;
}

// mayRun names the tool first, as the other name may be one that its server has chosen.
function mayRun({ tool_name: tool, display_name: other }) {
  return `May ${tool}${other && other !== tool ? ` (“${other}”)` : ""} run?`;
}

// ask is the element that asks for an answer to the request. give is called with one, and returns when the service has it.
export function ask(request, give) {
  const box = make("form", "ask");
  box.setAttribute("aria-label", "Your answer is needed");
  box.tabIndex = -1;
  box.addEventListener("submit", (event) => event.preventDefault());
  const problem = make("p", "refusal");
  problem.setAttribute("role", "alert");
  const answer = async (response, told) => {
    for (const b of box.elements) b.disabled = true;
    try {
      await give(response);
      end(box, told);
    } catch (error) {
      for (const b of box.elements) b.disabled = false;
      problem.textContent = error.message;
    }
  };
  if (request.subtype === "elicitation") elicitation(box, request, answer);
  else if (request.tool_name === "AskUserQuestion") questions(box, request, answer);
  else approval(box, request, answer);
  box.append(problem);
  return box;
}

// end leaves of what was asked how it was answered.
export function end(box, told) {
  box.replaceChildren(make("p", "about", told));
  box.dataset.answered = "true";
}

function approval(box, request, answer) {
  box.append(make("p", "question", mayRun(request)));
  if (request.description && request.description !== request.input.description) box.append(make("p", "about", request.description));
  if (request.blocked_path) box.append(make("p", "about", `It is about ${request.blocked_path}`));
  const gets = make("div", "gets");
  gets.append(...inputOf(request.tool_name, request.input));
  const row = make("div", "row");
  const isWhole = [...gets.children].every((block) => block.dataset.cut === "false");
  row.append(...(isWhole ? allowing(request, answer) : [unfolding(request, answer, gets)]));
  box.append(gets);
  const label = make("label", "why");
  const why = make("input");
  Object.assign(why, { type: "text", placeholder: "What to do instead", maxLength: 2000 });
  label.append(make("span", "hidden", "What to do instead"), why);
  const deny = () => answer({ behavior: "deny", message: why.value.trim() || "The user doesn't want this tool to run." },
    why.value.trim() ? `You denied it: ${why.value.trim()}` : "You denied it.");
  box.addEventListener("submit", deny); // Enter in the field
  row.append(label, button("Deny", "deny", deny));
  box.append(row);
}

// allowing are the buttons that let the tool run.
function allowing(request, answer) {
  const buttons = [button("Allow", "main allow", () => answer({ behavior: "allow" }, "You allowed it."))];
  const rules = rulesOf(request);
  if (rules.length > 0) {
    const which = rules.flatMap((r) => r.rules).map((r) => (r.ruleContent ? `${r.toolName}(${r.ruleContent})` : r.toolName)).join(", ");
    buttons.push(button(`Always allow ${which}`, "always", () => answer({ behavior: "allow", updatedPermissions: rules },
      `You allowed it, and ${which} from now on.`)));
  }
  return buttons;
}

// unfolding is a button that shows all of what the tool gets, and only then makes way for those that let it run.
function unfolding(request, answer, gets) {
  const unfold = button("Show all of it, to allow it", "unfold", () => {
    gets.replaceChildren(...inputOf(request.tool_name, request.input, Infinity));
    unfold.replaceWith(...allowing(request, answer));
    gets.firstElementChild.focus();
  });
  return unfold;
}

function questions(box, request, answer) {
  const fields = (request.input.questions ?? []).map((q) => question(q));
  box.append(...fields.map((f) => f.element));
  const send = make("button", "main", "Answer");
  send.type = "submit";
  const skip = button("Skip", "", () => answer({ behavior: "deny", message: "The user doesn't want to answer this." }, "You skipped it."));
  box.addEventListener("submit", () => {
    const answers = Object.fromEntries(fields.map((f) => [f.text, f.value()]).filter(([, value]) => value));
    answer({ behavior: "allow", updatedInput: { ...request.input, answers } },
      Object.entries(answers).map(([text, value]) => `${text} ${value}`).join("\n") || "You answered nothing.");
  });
  const row = make("div", "row");
  row.append(send, skip);
  box.append(row);
}

function question(q) {
  const element = make("fieldset");
  const name = `q${made++}`;
  element.append(make("legend", "question", q.question));
  for (const option of q.options ?? []) {
    const label = make("label", "option");
    const input = make("input");
    Object.assign(input, { type: q.multiSelect ? "checkbox" : "radio", name, value: option.label });
    const words = make("span", "", option.label);
    if (option.description) words.append(make("span", "about", option.description));
    label.append(input, words);
    element.append(label);
  }
  const label = make("label", "other", "Something else");
  const other = make("input");
  Object.assign(other, { type: "text", maxLength: 4000 });
  label.append(other);
  element.append(label);
  const value = () => [...element.querySelectorAll("input:checked")].map((i) => i.value).concat(other.value.trim() || []).join(", ");
  return { element, text: q.question, value };
}

// elicitation can be declined here, and what needs no data accepted: what servers ask in forms is for other clients.
function elicitation(box, request, answer) {
  box.append(make("p", "question", request.message ?? "A server wants to know something."));
  const row = make("div", "row");
  if (Object.keys(request.requested_schema?.properties ?? {}).length === 0 && !request.url) {
    row.append(button("Accept", "main", () => answer({ action: "accept", content: {} }, "You accepted.")));
  }
  row.append(button("Decline", "deny", () => answer({ action: "decline" }, "You declined.")));
  box.append(row);
}
