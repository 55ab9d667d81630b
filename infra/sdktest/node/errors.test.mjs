// How Anthropic's SDK for TypeScript takes what goes wrong, and what it sends again.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as sdk from "@anthropic-ai/sdk";
import { ask, calls, textOf, user } from "./service.mjs";

const failing = [
  { status: 429, kind: "rate_limit_error", error: sdk.RateLimitError },
  { status: 500, kind: "api_error", error: sdk.InternalServerError },
  { status: 529, kind: "overloaded_error", error: sdk.APIError },
];
for (const { status, kind, error } of failing) {
  test(`a turn that failed with ${status} is never sent again`, async () => {
    const { client, seen } = user(`failing-${status}`, { defaultHeaders: { "x-claudepool-session": "4f0c1a37-2f0e-4f7b-8a53-0b1e6d9c2a11" } });
    const whole = `node whole [[status=${status}]]`;
    await assert.rejects(client.messages.create(ask(whole)), (e) => e instanceof error && e.status === status && e.type === kind);
    assert.equal((await calls(whole)).length, 1);
    const streamed = `node streamed [[status=${status}]]`;
    await assert.rejects(client.messages.stream(ask(streamed)).finalMessage(), (e) => e instanceof sdk.APIError && e.type === kind);
    assert.equal((await calls(streamed)).length, 1);
    assert.equal(seen.requests, 2);
    assert.equal(textOf(await client.messages.create(ask(`node after ${status}`))), `reply to: node after ${status}`);
    assert.deepEqual((await calls(`node after ${status}`)).map((call) => call.messages), [[`user: node after ${status}`]]);
  });
}

test("a stream that fails in the middle is told of", async () => {
  const { client, seen } = user("middle");
  const stream = client.messages.stream(ask("node middle [[1:words=4]][[1:error=overloaded_error]][[2:status=529]]"));
  await assert.rejects(stream.finalMessage(), (e) => e instanceof sdk.APIError && e.type === "overloaded_error" && e.requestID !== null);
  assert.equal(seen.requests, 1);
});

const refused = [
  { name: "tool_choice", more: { tools: [{ name: "mine", input_schema: { type: "object" } }], tool_choice: { type: "any" } }, error: sdk.BadRequestError, kind: "invalid_request_error" },
  { name: "max_tokens", more: { max_tokens: undefined }, error: sdk.BadRequestError, kind: "invalid_request_error" },
  { name: "output_format", more: { output_format: { type: "json_schema", schema: {} } }, error: sdk.BadRequestError, kind: "invalid_request_error" },
  { name: "refused", error: sdk.AuthenticationError, kind: "authentication_error" },
];
for (const { name, more, error, kind } of refused) {
  test(`a request with ${name} is refused`, async () => {
    const { client, seen } = user(name, { timeout: 20_000 });
    await assert.rejects(client.messages.create(ask("node refused", more)), (e) => e instanceof error && e.type === kind && e.requestID !== null);
    assert.equal(seen.requests, 1);
  });
}

test("a body that is too large is refused", async () => {
  const { client, seen } = user("large");
  await assert.rejects(client.messages.create(ask("node large ".repeat(1e5))), (e) => e instanceof sdk.ContentTooLargeError && e.type === "request_too_large");
  assert.equal(seen.requests, 1);
});

test("what isn't there is not found", async () => {
  const { client } = user("nowhere");
  await assert.rejects(client.models.retrieve("no-such-model"), sdk.NotFoundError);
});

test("threads are unsupported", async () => {
  const { client } = user("thread");
  await assert.rejects(client.beta.messages.create(ask("node thread", { thread: { type: "create" } })),
    (e) => e instanceof sdk.BadRequestError && e.errorCode === "thread_unsupported_request");
  assert.deepEqual(await calls("node thread"), []);
});

test("what never began is sent again", async () => {
  const headers = { "x-claudepool-session": "0c7a2f5e-6d1b-4c58-8e0f-1a2b3c4d5e6f" };
  const questions = [0, 1, 2].map((i) => `node busy ${i} [[words=5]][[delay=100ms]]`);
  const users = questions.map(() => user("busy", { maxRetries: 30 }));
  const messages = await Promise.all(users.map(({ client }, i) => client.messages.create(ask(questions[i]), { headers })));
  for (const message of messages) assert.equal(textOf(message), "w0 w1 w2 w3 w4 ");
  for (const question of questions) assert.equal((await calls(question)).length, 1);
  assert.ok(users.some(({ seen }) => seen.requests > 1), "of three at once one is refused");
});
