// The runner of tools in Anthropic's SDK for TypeScript.
import assert from "node:assert/strict";
import { test } from "node:test";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { calls, model, textOf, user } from "./service.mjs";

for (const stream of [false, true]) {
  test(`a task of three calls is one turn of one process${stream ? ", streamed" : ""}`, async () => {
    const { client, seen } = user(`runner-${stream}`);
    const ran = [];
    let running = 0;
    let mostAtOnce = 0;
    const tools = ["weather", "clock"].map((name) =>
      betaTool({
        name,
        description: "tells of a place",
        inputSchema: { type: "object", properties: { of: { type: "string" } }, required: ["of"], additionalProperties: false },
        run: async ({ of }) => {
          mostAtOnce = Math.max(mostAtOnce, ++running);
          await new Promise((resolve) => setTimeout(resolve, 50));
          running--;
          ran.push(`${name} of ${of}`);
          return `${name} of ${of}`;
        },
      }),
    );
    const text = `node runner ${stream}`;
    const task = `${text} [[1:tool=mcp__client__weather {"of":"Rome"}\nmcp__client__clock {"of":"Oslo"}]][[2:tool=mcp__client__weather {"of":"Bern"}]]`;
    const messages = [{ role: "user", content: task }];
    const message = await client.beta.messages.toolRunner({ model, max_tokens: 100, messages, tools, stream }).runUntilDone();
    assert.equal(textOf(message), "tool said: weather of Bern");
    assert.deepEqual(ran.slice(0, 2).sort(), ["clock of Oslo", "weather of Rome"]);
    assert.deepEqual(ran.slice(2), ["weather of Bern"]);
    assert.equal(mostAtOnce, 2);
    for (const made of await calls(text)) assert.equal(made.messages.length, 1, "one turn");
    assert.equal(seen.headers.get("x-claudepool-process"), "reused");
  });
}
