// Frameworks that speak the Messages API for others: a chat of two turns each, streamed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { ChatAnthropic } from "@langchain/anthropic";
import { HumanMessage } from "@langchain/core/messages";
import { generateText, streamText } from "ai";
import { calls, key, model, observer, service } from "./service.mjs";

/** The conversation that the API has seen is that of the two turns, on one process. */
async function wentOn(seen, name) {
  assert.equal(seen.headers.get("x-claudepool-process"), "reused");
  assert.deepEqual((await calls(`${name} two`)).map((call) => call.messages), [
    [`user: ${name} one`, `assistant: reply to: ${name} one`, `user: ${name} two`],
  ]);
}

test("Vercel's AI SDK", async () => {
  const seen = observer();
  const anthropic = createAnthropic({ baseURL: `${service}/v1`, apiKey: key("ai"), fetch: seen.fetch });
  const messages = [];
  for (const content of ["ai one", "ai two"]) {
    messages.push({ role: "user", content });
    const result = streamText({ model: anthropic(model), messages });
    let text = "";
    for await (const part of result.textStream) text += part;
    assert.equal(text, `reply to: ${content}`);
    assert.equal(await result.finishReason, "stop");
    assert.ok((await result.usage).outputTokens > 0);
    messages.push(...(await result.response).messages);
  }
  await wentOn(seen, "ai");
});

test("Vercel's AI SDK with tools that are shown", async () => {
  const seen = observer();
  const anthropic = createAnthropic({ baseURL: `${service}/v1`, apiKey: key("ai-tools"), fetch: seen.fetch, headers: { "x-claudepool-tools": "show" } });
  const result = await generateText({ model: anthropic(model), prompt: `ai tool [[tool=Bash {"command":"echo forty-two"}]]` });
  assert.equal(result.text, "tool said: forty-two");
  assert.deepEqual(result.toolCalls.map((call) => call.toolName), ["Bash"]);
});

test("LangChain", async () => {
  const seen = observer();
  const chat = new ChatAnthropic({ model, apiKey: key("langchain"), anthropicApiUrl: service, clientOptions: { fetch: seen.fetch } });
  const messages = [];
  for (const content of ["langchain one", "langchain two"]) {
    messages.push(new HumanMessage(content));
    let answer;
    for await (const chunk of await chat.stream(messages)) answer = answer ? answer.concat(chunk) : chunk;
    assert.equal(answer.text, `reply to: ${content}`);
    assert.ok(answer.usage_metadata.output_tokens > 0);
    messages.push(answer);
  }
  await wentOn(seen, "langchain");
});

// Neither heeds x-should-retry: that a failed turn is run once is up to maxRetries, as the README says.
test("a failed turn is run once with maxRetries: 0", async () => {
  const anthropic = createAnthropic({ baseURL: `${service}/v1`, apiKey: key("ai-failed") });
  const failed = "ai failed [[status=529]]";
  await assert.rejects(generateText({ model: anthropic(model), prompt: failed, maxRetries: 0 }));
  assert.equal((await calls(failed)).length, 1);

  const streamed = "ai failed streamed [[status=529]]";
  const errors = [];
  await streamText({ model: anthropic(model), prompt: streamed, maxRetries: 0, onError: ({ error }) => errors.push(error) }).consumeStream();
  assert.equal(errors.length, 1);
  assert.equal((await calls(streamed)).length, 1);

  const chat = new ChatAnthropic({ model, apiKey: key("langchain-failed"), anthropicApiUrl: service, maxRetries: 0 });
  for (const text of ["langchain failed [[status=529]]", "langchain failed streamed [[status=529]]"]) {
    const isStream = text.includes("streamed");
    await assert.rejects(async () => {
      if (!isStream) return chat.invoke(text);
      for await (const chunk of await chat.stream(text)) assert.ok(chunk);
    });
    assert.equal((await calls(text)).length, 1);
  }
});
