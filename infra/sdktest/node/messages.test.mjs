// Anthropic's SDK for TypeScript.
import assert from "node:assert/strict";
import { test } from "node:test";
import { APIUserAbortError } from "@anthropic-ai/sdk";
import { ask, calls, textOf, until, user } from "./service.mjs";

test("five turns with their history run on one process", async () => {
  const { client, seen } = user("five");
  const messages = [];
  const said = [];
  let pid;
  for (let turn = 0; turn < 5; turn++) {
    const content = `node turn ${turn}`;
    messages.push({ role: "user", content });
    said.push(`user: ${content}`);
    const message = await client.messages.create(ask("", { messages }));
    assert.equal(textOf(message), `reply to: ${content}`);
    assert.equal(message.stop_reason, "end_turn");
    assert.ok(message._request_id);
    if (turn > 0) {
      assert.equal(seen.headers.get("x-claudepool-process"), "reused");
      assert.equal(seen.headers.get("x-claudepool-pid"), pid);
    }
    pid = seen.headers.get("x-claudepool-pid");
    const made = await calls(content);
    assert.deepEqual(made.map((call) => call.messages), [said]);
    said.push(`assistant: ${textOf(message)}`);
    messages.push({ role: "assistant", content: message.content });
  }
});

for (const api of ["messages", "beta.messages"]) {
  test(`${api}.stream has a final message, and goes on from it`, async () => {
    const { client, seen } = user(`stream-${api}`);
    const resource = api === "messages" ? client.messages : client.beta.messages;
    const question = `node ${api} streamed`;
    let streamed = "";
    const stream = resource.stream(ask(question)).on("text", (text) => (streamed += text));
    const message = await stream.finalMessage();
    assert.equal(streamed, `reply to: ${question}`);
    assert.equal(await stream.finalText(), streamed);
    assert.equal(message.stop_reason, "end_turn");
    assert.ok(message.usage.input_tokens > 0 && message.usage.output_tokens > 0);
    assert.ok(stream.request_id);

    const messages = [{ role: "user", content: question }, { role: message.role, content: message.content }, { role: "user", content: `${question} on` }];
    const next = await resource.stream(ask("", { messages })).finalMessage();
    assert.equal(textOf(next), `reply to: ${question} on`);
    assert.equal(seen.headers.get("x-claudepool-process"), "reused");
    assert.equal((await calls(question)).length, 2);
  });
}

test("what has no effect is named", async () => {
  const { client, seen } = user("ignored");
  await client.messages.create(ask("node ignored", { temperature: 0.5, stop_sequences: ["x"] }));
  const ignored = seen.headers.get("x-claudepool-ignored");
  for (const name of ["temperature", "stop_sequences", "max_tokens"]) assert.ok(ignored.includes(name), ignored);
});

test("images and documents reach the API", async () => {
  const { client } = user("blocks");
  const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
  const pdf = Buffer.from("%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n" +
    "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n").toString("base64");
  const content = [
    { type: "image", source: { type: "base64", media_type: "image/png", data: pixel } },
    { type: "document", source: { type: "base64", media_type: "application/pdf", data: pdf } },
    { type: "text", text: "node what is this" },
  ];
  assert.match(textOf(await client.messages.create(ask(content))), /^reply to: node what is this/);
  const [{ body }] = await calls("node what is this");
  const sent = body.messages.flatMap((message) => (Array.isArray(message.content) ? message.content : []));
  assert.ok(sent.some((block) => block.type === "image"));
  assert.equal(sent.find((block) => block.type === "document").source.data, pdf);
});

test("thinking comes as a block of its own", async () => {
  const { client } = user("thinking");
  const request = ask(`node think [[blocks={"type":"thinking","thinking":"hm"},{"type":"text","text":"thought"}]]`,
    { max_tokens: 2048, thinking: { type: "enabled", budget_tokens: 1024 } });
  for (const message of [await client.messages.stream(request).finalMessage(), await client.messages.create(request)]) {
    const [thinking, text] = message.content;
    assert.equal(thinking.thinking, "hm");
    assert.ok(thinking.signature);
    assert.equal(text.text, "thought");
  }
});

test("tools run within the turn, hidden", async () => {
  const { client } = user("hidden");
  const headers = { "x-claudepool-tools": "hide" };
  const message = await client.messages.stream(ask(`node hidden [[tool=Bash {"command":"echo forty-two"}]]`), { headers }).finalMessage();
  assert.equal(textOf(message), "tool said: forty-two");
  assert.equal(message.stop_reason, "end_turn");
  assert.deepEqual(message.content.map((block) => block.type), ["text"]);
});

for (const api of ["messages", "beta.messages"]) {
  test(`tools run within the turn, shown by ${api}, and their history goes on`, async () => {
    const { client, seen } = user(`shown-${api}`);
    const resource = api === "messages" ? client.messages : client.beta.messages;
    const question = `node shown ${api} [[tool=Bash {"command":"echo forty-two"}]][[say=let me see]]`;
    const message = await resource.stream(ask(question)).finalMessage();
    assert.deepEqual(message.content.map((block) => block.type), ["text", "mcp_tool_use", "mcp_tool_result", "text"]);
    const [, use, result] = message.content;
    assert.equal(use.name, "Bash");
    assert.deepEqual(use.input, { command: "echo forty-two" });
    assert.equal(result.tool_use_id, use.id);
    assert.ok(JSON.stringify(result.content).includes("forty-two"));
    const messages = [{ role: "user", content: question }, { role: message.role, content: message.content }, { role: "user", content: `node shown ${api} on` }];
    assert.equal(textOf(await resource.create(ask("", { messages }))), `reply to: node shown ${api} on`);
    assert.equal(seen.headers.get("x-claudepool-process"), "reused");
  });
}

test("an abort ends the turn, and the next one works", async () => {
  const { client, seen } = user("abort");
  const first = await client.messages.create(ask("node before abort"));
  const before = [{ role: "user", content: "node before abort" }, { role: "assistant", content: first.content }];
  const aborted = "node abort [[words=400]][[delay=50ms]]";
  const stream = client.messages.stream(ask("", { messages: [...before, { role: "user", content: aborted }] }));
  stream.once("text", () => stream.abort());
  await assert.rejects(stream.finalMessage(), APIUserAbortError);
  await until(async () => (await calls(aborted)).some((call) => call.aborted));

  const next = await client.messages.create(ask("", { messages: [...before, { role: "user", content: "node after abort" }] }));
  assert.equal(textOf(next), "reply to: node after abort");
  assert.deepEqual((await calls("node after abort"))[0].messages,
    ["user: node before abort", "assistant: reply to: node before abort", "user: node after abort"]);
  assert.equal((await calls(aborted)).length, 1);
  assert.equal(seen.requests, 3);
});

test("tokens are counted without a turn", async () => {
  const { client } = user("count");
  const request = { model: "claude-haiku-5-5", messages: [{ role: "user", content: "node count" }] };
  assert.ok((await client.messages.countTokens(request)).input_tokens > 0);
  assert.ok((await client.beta.messages.countTokens(request)).input_tokens > 0);
  assert.deepEqual(await calls("node count"), []);
});

test("models come in pages", async () => {
  const { client } = user("models");
  const ids = [];
  for await (const { id } of client.models.list({ limit: 1 })) ids.push(id);
  assert.ok(ids.length > 1);
  const whole = await client.models.list();
  assert.deepEqual(whole.data.map(({ id }) => id), ids);
  assert.equal((await client.models.retrieve(ids[1])).id, ids[1]);
});
