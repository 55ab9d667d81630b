// OpenAI's SDK, for the endpoint that speaks its language.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { calls, key, model, observer, service } from "./service.mjs";

function user(name) {
  const seen = observer();
  return { seen, client: new OpenAI({ baseURL: `${service}/v1`, apiKey: key(name), fetch: seen.fetch }) };
}

test("a chat of two turns runs on one process", async () => {
  const { client, seen } = user("openai");
  const messages = [];
  for (const content of ["openai one", "openai two"]) {
    messages.push({ role: "user", content });
    const { choices: [{ message, finish_reason }], usage } = await client.chat.completions.create({ model, messages });
    assert.equal(message.content, `reply to: ${content}`);
    assert.equal(finish_reason, "stop");
    assert.ok(usage.completion_tokens > 0);
    messages.push(message);
  }
  assert.equal(seen.headers.get("x-claudepool-process"), "reused");
  assert.deepEqual((await calls("openai two"))[0].messages, ["user: openai one", "assistant: reply to: openai one", "user: openai two"]);
});

test("a stream ends with its usage", async () => {
  const { client } = user("openai-stream");
  const stream = await client.chat.completions.create({ model, messages: [{ role: "user", content: "openai streamed" }], stream: true, stream_options: { include_usage: true } });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, "reply to: openai streamed");
  assert.ok(usage.completion_tokens > 0);
});

test("a turn that failed is never sent again", async () => {
  const { client, seen } = user("openai-failing");
  const question = "openai failing [[status=529]]";
  await assert.rejects(client.chat.completions.create({ model, messages: [{ role: "user", content: question }] }),
    (e) => e instanceof OpenAI.APIError && e.status === 529);
  assert.equal((await calls(question)).length, 1);
  assert.equal(seen.requests, 1);
});

test("what is refused says why", async () => {
  const { client } = user("openai-refused");
  await assert.rejects(client.chat.completions.create({ model, messages: [{ role: "user", content: "openai refused" }] }), OpenAI.AuthenticationError);
});

test("models are listed", async () => {
  const { client } = user("openai-models");
  const ids = [];
  for await (const { id } of client.models.list()) ids.push(id);
  assert.ok(ids.includes(model), ids.join());
});
