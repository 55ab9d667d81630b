#!/usr/bin/env bash
# When the model of a session calls EnterWorktree, the CLI moves the session's transcript to the folder of another project, that
# of the worktree. Whoever goes on with --resume and the id from where the session began finds no such conversation.
#
# Seen with Claude Code 2.1.330, linux/x64. A session is begun with --session-id in a git repository; the stand-in for the API
# calls EnterWorktree, then answers. The run ends well, and says that same id; its transcript is under a project called
# …--claude-worktrees-side, and --resume from the repository ends with "No conversation found".
#
# What follows: a host that keeps transcripts or resumes by id and folder has to withhold the tool (--disallowedTools), or to
# look for the id among all projects of the home.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "${pid:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix . @anthropic-ai/claude-code-linux-x64@2.1.330 >/dev/null
cat >api.mjs <<'JS'
import http from "node:http";
import fs from "node:fs";
const answer = (start, delta, stop) => [
  { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "m", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } },
  { type: "content_block_start", index: 0, content_block: start },
  { type: "content_block_delta", index: 0, delta },
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: stop, stop_sequence: null }, usage: { output_tokens: 1 } },
  { type: "message_stop" },
];
const enter = answer({ type: "tool_use", id: "toolu_1", name: "EnterWorktree", input: {} }, { type: "input_json_delta", partial_json: '{"name":"side"}' }, "tool_use");
const done = answer({ type: "text", text: "" }, { type: "text_delta", text: "done" }, "end_turn");
const server = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const e of body.includes('"tool_result"') ? done : enter) response.write(`event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`);
  response.end();
});
server.listen(0, "127.0.0.1", () => fs.writeFileSync("port", String(server.address().port)));
JS
node api.mjs &
pid=$!
until [ -s port ]; do sleep 0.05; done
mkdir home repository
git init -q repository
git -C repository -c user.name=n -c user.email=n@example.com commit -q --allow-empty -m first
id=11111111-2222-4333-8444-555555555555
cli() {
  (cd repository && env -i HOME="$work/home" PATH="$PATH" TMPDIR="$work" ANTHROPIC_BASE_URL="http://127.0.0.1:$(cat ../port)" CLAUDE_CODE_OAUTH_TOKEN=nobody \
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 \
    timeout 60 ../node_modules/@anthropic-ai/claude-code-linux-x64/claude --print --output-format json --allowedTools=EnterWorktree "$@" </dev/null 2>&1) || true
}
cli --session-id=$id hello >first
cli --resume=$id again >second
grep -o '"session_id":"[^"]*"' first | sort -u
(cd home/.claude/projects && find . -name "$id.jsonl" | sed 's/.*--claude/…--claude/')
tail -c 120 second; echo
grep -q "\"session_id\":\"$id\"" first
[ -n "$(find home/.claude/projects -path "*--claude-worktrees-side/$id.jsonl")" ]
grep -q "No conversation found" second
echo "as seen"
