// Puts the page together: the credential, the list, the conversation that is open, and its running turn.

import { element, write } from "../pool/text.js";
import { List } from "./list.js";
import { Log } from "./log.js";
import { Refusal, Service, uuid } from "./service.js";

const log = new Log(element("log"), { answer: (id, response) => service.answer(open.id, id, response), onAsked });
const list = new List(element("list"), show);

let service = null; // nobody has said who they are
let open = begun();
const turns = new Map(); // of this page that run: the AbortController of each, by conversation
let next = ""; // of the list
let isAsked = true; // the service can ask before tools run

// begun is a conversation in which nothing has been said yet.
function begun() {
  return { id: uuid(), title: "", isKnown: false, before: 0 };
}

// view is access, talk, or list, which matters on small screens.
function view(name) {
  document.body.dataset.view = name;
  element("open-list").setAttribute("aria-expanded", name === "list");
}

const tell = (text) => write(element("status"), text);

// fail says what went wrong. Whoever isn't let in is asked for the credential again.
function fail(error) {
  if (error instanceof Refusal && error.status === 401) leave(error.message);
  else log.note(error.message, "bad");
}

function leave(why = "") {
  service = null;
  for (const turn of turns.values()) turn.abort();
  list.show([]);
  fresh();
  element("token").value = element("key").value = "";
  write(element("refusal"), why);
  view("access");
  element("token").focus();
}

async function enter(event) {
  event.preventDefault();
  service = new Service(element("token").value.trim(), element("key").value.trim());
  if (!(await load())) return;
  element("token").value = element("key").value = "";
  write(element("refusal"), "");
  view("talk");
  element("text").focus();
}

// load reads the beginning of the list, and reports whether it could.
async function load() {
  const asking = service;
  try {
    const part = await asking.list();
    if (service !== asking) return false;
    list.show(part.conversations);
    page(part);
    return true;
  } catch (error) {
    if (document.body.dataset.view === "access") leave(error.message);
    else fail(error);
    return false;
  }
}

function page(part) {
  next = part.next ?? "";
  element("more").hidden = !next;
  write(element("list-about"), element("list").childElementCount > 0 ? "" : "There are none yet.");
}

// settle has the page be as the open conversation is.
function settle() {
  const isBusy = turns.has(open.id);
  write(element("title"), open.title);
  document.title = open.title ? `${open.title} – claudepool` : "claudepool";
  element("log").setAttribute("aria-busy", isBusy); // or a screen reader would read each word by itself
  element("send").hidden = isBusy;
  element("stop").hidden = !isBusy;
  for (const id of ["fork", "delete"]) element(id).disabled = isBusy || !open.isKnown;
  write(element("delete"), "Delete");
  element("empty").hidden = !log.isEmpty;
  element("earlier").hidden = !open.before;
  list.open(open.id);
}

// fresh opens a new conversation. A turn of the one before goes on.
function fresh() {
  open = begun();
  log.clear();
  tell("");
  settle();
  if (service) view("talk");
  element("text").focus();
}

// show opens a conversation.
async function show(id) {
  const opened = (open = { ...begun(), id, isKnown: true });
  log.clear();
  tell("Loading…");
  view("talk");
  settle();
  try {
    const [one, said] = await Promise.all([service.one(id), service.messages(id)]);
    if (open !== opened) return;
    Object.assign(open, { title: one.title, before: said.before ?? 0 });
    log.before(said.messages);
    tell(turns.has(id) ? "Claude is at work. You see what has come of it in the end." : one.running ?
      "A turn of this conversation is running elsewhere. Open it again to see what has come of it." : "");
    for (const asked of one.pending) log.asked(asked.request_id, asked.request);
  } catch (error) {
    if (open === opened) fail(error);
  }
  settle();
  scroll(true);
}

async function earlier() {
  const opened = open;
  const place = element("scroll");
  const height = place.scrollHeight;
  try {
    const said = await service.messages(open.id, open.before);
    if (open !== opened) return;
    open.before = said.before ?? 0;
    log.before(said.messages);
    settle();
    requestAnimationFrame(() => (place.scrollTop += place.scrollHeight - height));
  } catch (error) {
    fail(error);
  }
}

// scroll shows the end, if that was seen before.
function scroll(always = false) {
  const place = element("scroll");
  if (always || place.scrollHeight - place.scrollTop - place.clientHeight < 160) {
    requestAnimationFrame(() => requestAnimationFrame(() => (place.scrollTop = place.scrollHeight)));
  }
}

async function send(event) {
  event.preventDefault();
  const text = element("text").value.trim();
  if (!text || turns.has(open.id)) return;
  element("text").value = "";
  log.say(text);
  open.title ||= text.replace(/\s+/g, " ").slice(0, 80);
  const running = new AbortController();
  const opened = open;
  turns.set(opened.id, running);
  settle();
  scroll(true);
  tell("Claude is at work…");
  await run(opened, text, running);
  turns.delete(opened.id);
  if (!service) return;
  if (open === opened) end();
  else if (open.id === opened.id) show(open.id); // which was opened again meanwhile
  load();
}

// end has the page be as after a turn.
function end() {
  log.over();
  settle();
  scroll();
  if (document.activeElement === document.body) element("text").focus();
}

// run runs a turn to its end, whatever that is, and says how it ended.
async function run(opened, text, running) {
  const body = { session_id: opened.id, messages: [{ role: "user", content: text }] };
  if (element("model").value) body.model = element("model").value;
  if (isAsked) Object.assign(body, { interactive: true, permission_mode: "default" });
  const isOpen = () => open === opened && service !== null;
  try {
    await service.turn(body, running.signal, (e) => isOpen() && take(e));
  } catch (error) {
    if (isAsked && error.status === 400 && error.message.startsWith("interactive:")) {
      isAsked = false;
      log.note("This service can't ask before tools run: those that need approval are denied.");
      await run(opened, text, running);
      return;
    }
    if (!isOpen()) return;
    if (!running.signal.aborted) fail(error);
    else log.note("Stopped. The conversation goes on as if this had not been said.");
    tell("");
  }
}

// take shows an event of the open conversation's turn.
function take(e) {
  switch (e.type) {
    case "error":
      log.note(e.error.message, "bad");
      tell("");
      break;
    case "result":
      open.isKnown ||= !e.is_error;
      if (e.is_error) log.note(`${element("log").textContent.includes(e.result) ? "" : e.result ?? ""} The turn failed: the ` +
        "conversation goes on as if this had not been said.", "bad");
      tell(e.is_error ? "" : `Done in ${(e.duration_ms / 1000).toFixed(1)} s.`);
      break;
    case "control_cancel_request":
      tell("Claude is at work…");
  }
  log.event(e);
  scroll();
}

// onAsked has the person notice that an answer is needed. The focus moves only where nobody is writing, and to no button:
// a key that was meant for something else must not allow anything.
function onAsked(request, box) {
  tell(request.tool_name === "AskUserQuestion" || request.subtype === "elicitation" ? "Claude asks you something." :
    `May ${request.display_name ?? request.tool_name} run? Your answer is needed.`);
  scroll(true);
  if (element("text").value.trim() === "") box.focus({ preventScroll: true });
}

async function fork() {
  try {
    const { id } = await service.fork(open.id);
    await load();
    await show(id);
    log.note("A fork: the same was said in it, but it has none of the files.");
  } catch (error) {
    fail(error);
  }
}

// remove deletes the open conversation, when it is asked for twice.
async function remove() {
  if (element("delete").textContent === "Delete") {
    write(element("delete"), "Delete for good?");
    return;
  }
  try {
    await service.remove(open.id);
    fresh();
    await load();
  } catch (error) {
    fail(error);
    settle();
  }
}

async function more() {
  try {
    const part = await service.list(next);
    list.add(part.conversations);
    page(part);
  } catch (error) {
    fail(error);
  }
}

const stop = () => turns.get(open.id)?.abort();

function keys(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    element("composer").requestSubmit();
  }
}

element("access").addEventListener("submit", enter);
element("composer").addEventListener("submit", send);
element("text").addEventListener("keydown", keys);
for (const [id, press] of Object.entries({
  stop, fresh, fork, more, earlier, delete: remove, leave: () => leave(),
  "open-list": () => view(document.body.dataset.view === "list" ? "talk" : "list"),
})) {
  element(id).addEventListener("click", press);
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
settle();
element("token").focus();
