#!/usr/bin/env bash
# The CLI's WebFetch tool asks api.anthropic.com about the domain before it fetches anything, although the API's base URL is
# somebody else's and CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC is set; where that can't be reached, nothing is fetched.
#
# Seen with Claude Code 2.1.330, linux/x64. The stand-in for the API asks for WebFetch of https://example.com/; it also is the
# proxy for https, and refuses every connection. The only one that is asked for is api.anthropic.com:443, never example.com:443,
# and the model is told that it could not be verified whether the domain is safe to fetch.
#
# What follows: a host that lets its CLIs reach a gateway of its own and a few sites, but not Anthropic, has no WebFetch, and one
# that counts on its base URL to know of all traffic sees the domains of its users go elsewhere.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "${pid:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix . @anthropic-ai/claude-code-linux-x64@2.1.330 >/dev/null
cat >api.mjs <<'JS'
import http from "node:http";
import fs from "node:fs";
const note = (text) => fs.appendFileSync("asked", text + "\n");
const events = (blocks, stop) => [
  { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "m", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } },
  ...blocks,
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: stop, stop_sequence: null }, usage: { output_tokens: 1 } },
  { type: "message_stop" },
];
const tool = events([
  { type: "content_block_start", index: 0, content_block: { type: "tool_use", id: "toolu_1", name: "WebFetch", input: {} } },
  { type: "content_block_delta", index: 0, delta: { type: "input_json_delta", partial_json: '{"url":"https://example.com/","prompt":"p"}' } },
], "tool_use");
const text = events([
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
  { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "done" } },
], "end_turn");
const server = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  const result = body.match(/"tool_result".*?"content":"(.*?[^\\])"/);
  if (result) note("the model is told: " + result[1].slice(0, 60));
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const e of result ? text : tool) response.write(`event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`);
  response.end();
});
server.on("connect", (request, socket) => {
  note("connects to " + request.url);
  socket.end("HTTP/1.1 502 Bad Gateway\r\n\r\n");
});
server.listen(0, "127.0.0.1", () => fs.writeFileSync("port", String(server.address().port)));
JS
node api.mjs &
pid=$!
until [ -s port ]; do sleep 0.05; done
address=http://127.0.0.1:$(cat port)
mkdir home
env -i HOME="$work/home" PATH="$PATH" TMPDIR="$work" ANTHROPIC_BASE_URL="$address" HTTPS_PROXY="$address" CLAUDE_CODE_OAUTH_TOKEN=nobody \
  CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 \
  timeout 60 node_modules/@anthropic-ai/claude-code-linux-x64/claude -p fetch --allowedTools=WebFetch </dev/null >said 2>&1 || true
sort -u asked
[ "$(grep -c . <(grep connects asked | sort -u))" = 1 ]
grep -q "connects to api.anthropic.com:443" asked
grep -q "the model is told: Unable to verify" asked
echo "as seen"
