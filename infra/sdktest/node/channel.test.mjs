// Anthropic's Agent SDK for browsers, on channels. The service has two instances and asks before tools run.
import assert from "node:assert/strict";
import http from "node:http";
import { test } from "node:test";
import { createSdkMcpServer, getCcrEvent, getSseDropCounts, query, tool, z } from "@anthropic-ai/claude-agent-sdk/browser";
import { calls, key, service, until } from "./service.mjs";

/** A conversation that one talks with through the SDK. */
function converse(name, options = {}, base = service, id = crypto.randomUUID()) {
  const waiting = [];
  let wake = () => {};
  async function* prompt() {
    for (;;) {
      while (waiting.length > 0) yield waiting.shift();
      await new Promise((resolve) => (wake = resolve));
    }
  }
  const abortController = new AbortController();
  const path = `${base}/v1/conversations/${id}`;
  const headers = { Authorization: `Bearer ${key(name)}` };
  const sse = { streamUrl: `${path}/stream`, sendUrl: `${path}/send`, sessionId: id, headers };
  const messages = query({ prompt: prompt(), abortController, sse, ...options });
  const seen = [];
  return {
    id, headers, path, messages, seen,
    say(content, more = {}) {
      waiting.push({ type: "user", message: { role: "user", content }, parent_tool_use_id: null, session_id: "", ...more });
      wake();
    },
    /** The result of the turn that runs. */
    async result() {
      for (;;) {
        const { value, done } = await messages.next();
        assert.ok(!done, "the stream has ended");
        seen.push({ message: value, event: getCcrEvent(messages, value) });
        if (value.type === "result") return value;
      }
    },
    /** What the tool of the last turn has said. */
    toolSaid() {
      const blocks = seen.flatMap(({ message }) => (message.type === "user" ? message.message.content : []));
      const results = blocks.filter((block) => block.type === "tool_result");
      const { content } = results[results.length - 1];
      return typeof content === "string" ? content : content.map((block) => block.text).join("");
    },
    async close() {
      assert.deepEqual(getSseDropCounts(messages), {}, "the SDK understands all that it gets");
      abortController.abort();
    },
  };
}

const call = (name, input) => `[[tool=${name} ${JSON.stringify(input)}]]`;
const bash = (command) => call("Bash", { command, description: "d" });

test("three turns run on one process", async () => {
  const c = converse("channel-three");
  for (let turn = 0; turn < 3; turn++) {
    c.say(`channel turn ${turn}`);
    const result = await c.result();
    assert.equal(result.result, `reply to: channel turn ${turn}`);
    assert.equal(result.session_id, c.id);
    const echo = c.seen.filter(({ message }) => message.type === "user").at(-1);
    assert.ok(result.user_message_uuids.includes(echo.message.uuid), "a result names the message that it answers");
  }
  const stats = await (await fetch(`${service}/v1/pool/stats`)).json();
  assert.ok(stats.instances.length === 2);
  const [first, last] = [await calls("channel turn 0"), await calls("channel turn 2")];
  assert.equal(first.length + last.length, 2, "no message is asked twice");
  assert.equal(last[0].messages.length, 5);
  const numbers = c.seen.map(({ event }) => event?.sequence_num).filter((n) => n !== undefined);
  assert.deepEqual(numbers, numbers.toSorted((a, b) => a - b));
  assert.equal(numbers.at(-1) - numbers[0] >= numbers.length - 1, true);
  await c.close();
});

test("a client allows, changes and denies what a tool is to do, and answers questions", async () => {
  let decide;
  const asked = [];
  const c = converse("channel-asks", {
    canUseTool: async (name, input) => {
      asked.push(name);
      return decide(input);
    },
  });
  const run = async (text, decision) => {
    decide = decision;
    c.say(text);
    assert.equal((await c.result()).subtype, "success");
    return c.toolSaid();
  };
  assert.equal(await run(`${bash("touch a; echo one")} asks 1`, (updatedInput) => ({ behavior: "allow", updatedInput })), "one");
  const changed = (input) => ({ behavior: "allow", updatedInput: { ...input, command: "touch a; echo two" } });
  assert.equal(await run(`${bash("touch a; echo one")} asks 2`, changed), "two");
  assert.equal(await run(`${bash("touch a; echo three")} asks 3`, () => ({ behavior: "deny", message: "not today" })), "not today");
  const question = { question: "Which colour?", header: "Colour", multiSelect: false,
    options: [{ label: "Red", description: "r" }, { label: "Blue", description: "b" }] };
  const answered = (input) => ({ behavior: "allow", updatedInput: { ...input, answers: { "Which colour?": "Blue" } } });
  assert.match(await run(`${call("AskUserQuestion", { questions: [question] })} asks 4`, answered), /"Which colour\?"="Blue"/);
  assert.deepEqual(asked, ["Bash", "Bash", "Bash", "AskUserQuestion"]);
  await c.close();
});

test("hooks and an MCP server live in the client", async () => {
  const weather = tool("weather", "the weather", { city: z.string() }, async ({ city }) => ({
    content: [{ type: "text", text: `sunny in ${city}` }],
  }));
  const deny = { hookEventName: "PreToolUse", permissionDecision: "deny", permissionDecisionReason: "the hook says no" };
  const c = converse("channel-hooks", {
    canUseTool: async (_, updatedInput) => ({ behavior: "allow", updatedInput }),
    hooks: { PreToolUse: [{ matcher: "Bash", hooks: [async () => ({ hookSpecificOutput: deny })] }] },
    mcpServers: { weather: createSdkMcpServer({ name: "weather", version: "1.0.0", tools: [weather] }) },
  });
  c.say(`${bash("touch a; echo one")} hooks 1`);
  await c.result();
  assert.match(c.toolSaid(), /the hook says no/);
  c.say(`${call("mcp__weather__weather", { city: "Rome" })} hooks 2`);
  await c.result();
  assert.equal(c.toolSaid(), "sunny in Rome");
  await c.close();
});

test("a schema is kept to in every turn", async () => {
  const c = converse("channel-schema", {
    jsonSchema: { type: "object", properties: { x: { type: "integer" } }, required: ["x"] },
  });
  for (const x of [7, 8]) {
    c.say(`${call("StructuredOutput", { x })} schema ${x}`);
    assert.deepEqual((await c.result()).structured_output, { x });
  }
  await c.close();
});

test("a schema comes to a conversation that runs, which goes on", async () => {
  const before = converse("channel-late-schema");
  before.say("schema later 0");
  assert.equal((await before.result()).structured_output, undefined);
  await before.close();
  const jsonSchema = { type: "object", properties: { x: { type: "integer" } }, required: ["x"] };
  const c = converse("channel-late-schema", { jsonSchema }, service, before.id);
  for (const x of [1, 2]) {
    c.say(`${call("StructuredOutput", { x })} schema later ${x}`);
    let result;
    do result = await c.result(); // of what was said before, too: the stream begins at the beginning
    while (!result.structured_output);
    assert.deepEqual(result.structured_output, { x });
  }
  const asked = await calls("schema later 1");
  assert.match(asked[0].messages[0], /schema later 0/, "the model knows what was said before");
  await c.close();
});

test("a turn is steered and interrupted, and the conversation goes on", async () => {
  let allowed;
  const runs = new Promise((resolve) => (allowed = resolve));
  const canUseTool = async (_, updatedInput) => (setTimeout(allowed, 500), { behavior: "allow", updatedInput });
  const c = converse("channel-steer", { canUseTool });
  c.say(`${bash("touch a; sleep 2; echo slow")} steer 1`);
  await runs;
  c.say("steer on");
  const steered = await c.result();
  assert.equal(steered.user_message_uuids.length, 2);

  c.say("[[words=200]] [[delay=100ms]] steer 2");
  let begun = false;
  const result = (async () => {
    for (;;) {
      const { value } = await c.messages.next();
      begun ||= value.type === "stream_event";
      if (value.type === "result") return value;
    }
  })();
  await until(() => begun);
  assert.deepEqual(await c.messages.interrupt(), { still_queued: [] });
  assert.equal((await result).subtype, "error_during_execution");
  await c.messages.setModel("sonnet");
  c.say([{ type: "text", text: "[[words=1]] steer 3" }]);
  const next = await c.result();
  assert.equal(next.subtype, "success");
  assert.ok(Object.keys(next.model_usage_since_last_result ?? next.modelUsage).some((model) => model.includes("sonnet")));
  assert.deepEqual(await c.messages.setPermissionMode("plan"), { mode: "plan" });
  await assert.rejects(c.messages.setPermissionMode("bypassPermissions"), /above what this service allows/);
  await assert.rejects(c.messages.mcpServerStatus(), /not supported/);
  await c.close();
});

/** A proxy whose connections can be cut. */
async function cutter() {
  const sockets = new Set();
  const proxy = http.createServer((request, response) => {
    const { hostname, port } = new URL(service);
    const on = http.request({ hostname, port, path: request.url, method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    on.on("error", () => response.destroy());
    response.on("close", () => on.destroy());
    if (request.method === "GET") sockets.add(response);
    request.pipe(on);
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    cut() {
      for (const response of sockets) response.destroy();
      sockets.clear();
    },
    close: () => new Promise((resolve) => (proxy.closeAllConnections(), proxy.close(resolve))),
  };
}

test("through a connection that is cut five times every event comes once, and in order", async () => {
  const proxy = await cutter();
  const c = converse("channel-cut", { canUseTool: async (_, updatedInput) => ({ behavior: "allow", updatedInput }) }, proxy.url);
  const cuts = (async () => {
    for (let i = 0; i < 5; i++) {
      await new Promise((resolve) => setTimeout(resolve, 300 + Math.random() * 900));
      proxy.cut();
    }
  })();
  for (let turn = 0; turn < 4; turn++) {
    c.say(`${bash(`touch a; sleep 0.5; echo cut ${turn}`)} cut turn ${turn}`);
    await c.result();
    assert.equal(c.toolSaid(), `cut ${turn}`);
  }
  await cuts;
  const whole = await (await fetch(`${c.path}/stream`, { headers: c.headers })).body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (!text.includes(c.seen.at(-1).message.uuid)) text += decoder.decode((await whole.read()).value, { stream: true });
  await whole.cancel();
  const kept = [...text.matchAll(/event: client_event\ndata: (.*)/g)].map(([, data]) => JSON.parse(data));
  kept.forEach((event, i) => assert.equal(event.sequence_num, kept[0].sequence_num + i, "no number is missing"));
  const shown = kept.filter((event) => !event.payload.type.startsWith("control_"));
  const got = c.seen.filter(({ event }) => event).map(({ event }) => event.event_id);
  assert.deepEqual(got, shown.slice(0, got.length).map((event) => event.event_id));
  await c.close();
  await proxy.close();
});
