// Puts the page together: the credential, the list, the conversation that is open, and its running turn.

import { element, write } from "../pool/text.js";
import { Conversation } from "./conversation.js";
import { List } from "./list.js";
import { Refusal, Service, uuid } from "./service.js";

const list = new List(element("list"), show);

let service = null; // nobody has said who they are
let open = begun();
const turns = new Map(); // of this page that run: the conversation of each, by id
let next = ""; // of the list
const allowsLess = { // by the field of a turn's request that the service doesn't allow
  interactive: "This service can't ask before tools run: those that need approval are denied.",
  permission_mode: "This service lets Claude do less than it would ask for: its own permission mode is in force.",
};

// begun is a conversation in which nothing has been said yet.
function begun(id = uuid()) {
  return new Conversation(id, { answer: (...given) => service.answer(...given), onAsked, onStatus });
}

function onStatus(conversation) {
  if (conversation === open) write(element("status"), conversation.status);
}

// view is access, talk, or list, which matters on small screens.
function view(name) {
  document.body.dataset.view = name;
  element("open-list").setAttribute("aria-expanded", name === "list");
}

// fail says what went wrong. Whoever isn't let in is asked for the credential again.
function fail(error, conversation = open) {
  if (error instanceof Refusal && error.status === 401) leave(error.message);
  else conversation.log.note(error.message, "bad");
}

function leave(why = "") {
  service = null;
  for (const { running } of turns.values()) running.abort();
  turns.clear();
  list.show([]);
  fresh();
  element("token").value = element("key").value = "";
  write(element("refusal"), why);
  view("access");
  element("token").focus();
}

function forget() {
  element("text").value = "";
  leave();
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
  element("empty").hidden = !open.log.isEmpty;
  element("earlier").hidden = !open.before;
  list.open(open.id);
}

// reveal has the page show a conversation. A turn of the one before goes on.
function reveal(conversation) {
  open = conversation;
  element("log").replaceChildren(open.log.element);
  onStatus(open);
  if (service) view("talk");
  settle();
  scroll(true);
}

function fresh() {
  reveal(begun());
  element("text").focus();
}

// show opens a conversation.
async function show(id) {
  if (turns.has(id)) {
    reveal(turns.get(id));
    return;
  }
  const opened = Object.assign(begun(id), { isKnown: true, status: "Loading…" });
  reveal(opened);
  try {
    const [one, said] = await Promise.all([service.one(id), service.messages(id)]);
    if (open !== opened) return;
    Object.assign(open, { title: one.title, before: said.before ?? 0 });
    open.log.before(said.messages);
    if (!turns.has(id)) open.tell(one.running ? "A turn of this conversation is running elsewhere. Open it again to see what has come of it." : "");
    for (const asked of one.pending) open.log.asked(asked.request_id, asked.request);
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
    open.log.before(said.messages);
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
  const opened = open;
  const asking = service;
  const said = opened.log.say(text);
  opened.title ||= text.replace(/\s+/g, " ").slice(0, 80);
  opened.running = new AbortController();
  turns.set(opened.id, opened);
  settle();
  scroll(true);
  open.tell("Claude is at work…");
  await run(opened, text, (refusal) => {
    said.remove();
    putBack(opened, text, refusal);
  });
  if (service !== asking) return;
  turns.delete(opened.id);
  opened.log.over();
  if (open === opened) end();
  load();
}

// putBack has what the service has refused be in the text field again, if that is still the conversation's.
function putBack(opened, text, refusal) {
  if (open !== opened) {
    open.log.note(`This was refused in “${opened.title}” (${refusal.message}): ${text}`, "bad");
    return;
  }
  const field = element("text");
  field.value = field.value.trim() ? `${text}\n${field.value}` : text;
}

// end has the page be as after a turn.
function end() {
  settle();
  scroll();
  if (document.activeElement === document.body) element("text").focus();
}

// run runs a turn to its end, whatever that is, and says how it ended. onRefused is called if it can't even begin.
async function run(opened, text, onRefused) {
  const { log, running } = opened;
  const asking = service;
  const body = { session_id: opened.id, messages: [{ role: "user", content: text }] };
  if (element("model").value) body.model = element("model").value;
  try {
    await service.turn(body, running.signal, (e) => {
      opened.take(e);
      if (open === opened) scroll();
    }, (field) => log.note(allowsLess[field]));
  } catch (error) {
    if (service !== asking) return;
    opened.tell("");
    if (running.signal.aborted) {
      log.note("Stopped. The conversation goes on as if this had not been said.");
      return;
    }
    if (error instanceof Refusal) onRefused(error);
    fail(error, opened);
  }
}

// onAsked has the person notice that an answer is needed. The focus moves only where nobody is writing, and to no button:
// a key that was meant for something else must not allow anything.
function onAsked(asking, box) {
  if (asking !== open) {
    load(); // the list says so
    return;
  }
  scroll(true);
  if (element("text").value.trim() === "") box.focus({ preventScroll: true });
}

async function fork() {
  try {
    const { id } = await service.fork(open.id);
    await load();
    await show(id);
    open.log.note("A fork: the same was said in it, but it has none of the files.");
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

const stop = () => turns.get(open.id)?.running.abort();

function keys(event) {
  if (event.isComposing || event.keyCode === 229) return; // the key is the input method's; Safari has the number alone
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    element("composer").requestSubmit();
  }
  escape(event);
}

// escape stops the turn, but not while that asks something: whoever wants to be rid of the question would lose it all.
function escape(event) {
  if (event.key === "Escape" && !open.log.asks) stop();
}

element("access").addEventListener("submit", enter);
element("composer").addEventListener("submit", send);
element("text").addEventListener("keydown", keys);
element("stop").addEventListener("keydown", escape);
for (const [id, press] of Object.entries({
  stop, fresh, fork, more, earlier, delete: remove, leave: forget,
  "open-list": () => view(document.body.dataset.view === "list" ? "talk" : "list"),
})) {
  element(id).addEventListener("click", press);
}
reveal(open);
element("token").focus();
