import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { all, model, question, url, weather } from "./server.mjs";

const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: question }];
const tools = [{ name: weather.name, description: weather.description, input_schema: weather.schema }];

test("a message, in one piece and streamed", async () => {
  const asked = { model, messages, temperature: 0, max_tokens: 12 };
  const whole = await client.messages.create(asked);
  const streamed = await client.messages.stream(asked).finalMessage();
  assert.deepEqual(streamed.content, whole.content);
  assert.deepEqual([streamed.stop_reason, streamed.usage.output_tokens], [whole.stop_reason, whole.usage.output_tokens]);
});

test("the order of a stream's events", async () => {
  const events = await all(await client.messages.create({ model, messages, max_tokens: 4, stream: true }));
  const types = events.map((event) => event.type).filter((type) => type !== "ping" && type !== "content_block_delta");
  assert.deepEqual(types, ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]);
});

test("a call and its result", async () => {
  const asked = { model, messages, tools, tool_choice: { type: "tool", name: weather.name }, max_tokens: 100 };
  for (const reply of [await client.messages.create(asked), await client.messages.stream(asked).finalMessage()]) {
    assert.equal(reply.stop_reason, "tool_use");
    const uses = reply.content.filter((block) => block.type === "tool_use");
    assert.ok(uses.length > 0 && uses.every((use) => ["celsius", "kelvin"].includes(use.input.unit)));
    const content = uses.map((use) => ({ type: "tool_result", tool_use_id: use.id, content: "4 degrees" }));
    const after = [...messages, { role: "assistant", content: reply.content }, { role: "user", content }];
    assert.equal((await client.messages.create({ model, messages: after, tools, max_tokens: 4 })).role, "assistant");
  }
});

test("tokens are counted as they are used", async () => {
  const { input_tokens } = await client.messages.countTokens({ model, messages, system: "Be brief." });
  const reply = await client.messages.create({ model, messages, system: "Be brief.", max_tokens: 1 });
  assert.equal(input_tokens, reply.usage.input_tokens + (reply.usage.cache_read_input_tokens ?? 0));
});

test("errors are the SDK's own", async () => {
  await assert.rejects(client.messages.create({ model, messages: [], max_tokens: 1 }), Anthropic.BadRequestError);
  await assert.rejects(client.messages.create({ model: "another", messages, max_tokens: 1 }), Anthropic.NotFoundError);
});
