import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { all, embedder, model, question, url, weather } from "./server.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: question }];
const tools = [{ type: "function", function: { name: weather.name, parameters: weather.schema, strict: true } }];
const Colour = z.object({ name: z.enum(["red", "green"]), shades: z.array(z.number().int()).max(3) });

test("a chat, in one piece and streamed", async () => {
  const asked = { model, messages, temperature: 0, max_completion_tokens: 12 };
  const whole = await client.chat.completions.create(asked);
  const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
  const streamed = await stream.finalChatCompletion();
  assert.equal(streamed.choices[0].message.content, whole.choices[0].message.content);
  assert.equal(streamed.choices[0].finish_reason, whole.choices[0].finish_reason);
  assert.equal((await stream.totalUsage()).completion_tokens, whole.usage.completion_tokens);
});

test("a chat's schema and log-probabilities", async () => {
  const response_format = zodResponseFormat(Colour, "colour");
  const asked = { model, messages, response_format, max_tokens: 100, logprobs: true, top_logprobs: 2 };
  const reply = await client.chat.completions.parse(asked);
  assert.ok(["red", "green"].includes(reply.choices[0].message.parsed.name));
  const { content } = reply.choices[0].logprobs;
  assert.equal(content.map((one) => one.token).join(""), reply.choices[0].message.content);
  assert.ok(content.every((one) => one.top_logprobs.length === 2));
});

test("a chat's calls, in one piece and streamed", async () => {
  const asked = { model, messages, tools, tool_choice: "required", parallel_tool_calls: false, max_tokens: 100 };
  const stream = client.chat.completions.stream(asked);
  for (const reply of [await client.chat.completions.create(asked), await stream.finalChatCompletion()]) {
    assert.equal(reply.choices[0].finish_reason, "tool_calls");
    const [call] = reply.choices[0].message.tool_calls;
    assert.equal(call.function.name, weather.name);
    const { city, unit } = JSON.parse(call.function.arguments);
    assert.equal(typeof city, "string");
    assert.ok(["celsius", "kelvin"].includes(unit));
    const result = { role: "tool", tool_call_id: call.id, content: "4 degrees" };
    const after = [...messages, reply.choices[0].message, result];
    const next = await client.chat.completions.create({ model, messages: after, tools, max_tokens: 5 });
    assert.ok(next.usage.prompt_tokens > reply.usage?.prompt_tokens || !reply.usage);
  }
});

test("stored chat completions", async () => {
  const { id } = await client.chat.completions.create({ model, messages, max_tokens: 3, store: true, metadata: { of: "js" } });
  assert.equal((await client.chat.completions.retrieve(id)).id, id);
  assert.ok((await all(client.chat.completions.list({ metadata: { of: "js" } }))).some((one) => one.id === id));
  assert.equal((await client.chat.completions.delete(id)).deleted, true);
});

test("completions", async () => {
  const asked = { model, prompt: ["Once", "Twice"], max_tokens: 4, temperature: 0, logprobs: 1 };
  const whole = await client.completions.create(asked);
  const texts = ["", ""];
  for await (const { choices } of await client.completions.create({ ...asked, stream: true })) {
    for (const choice of choices) texts[choice.index] += choice.text;
  }
  assert.deepEqual(texts, whole.choices.map((choice) => choice.text));
});

test("a response, in one piece and streamed, and the turn after it", async () => {
  const asked = { model, input: question, temperature: 0, max_output_tokens: 16 };
  const whole = await client.responses.create(asked);
  const stream = client.responses.stream(asked);
  const events = await all(stream);
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
  const next = await client.responses.create({ ...asked, input: "Another.", previous_response_id: whole.id });
  assert.ok(next.usage.input_tokens > whole.usage.input_tokens);
  assert.equal((await client.responses.retrieve(whole.id)).output_text, whole.output_text);
  assert.ok((await all(client.responses.inputItems.list(next.id))).length > 0);
  await client.responses.delete(whole.id);
  await assert.rejects(client.responses.retrieve(whole.id), OpenAI.NotFoundError);
});

test("a response's schema, calls and conversation", async () => {
  const text = { format: zodTextFormat(Colour, "colour") };
  const parsed = await client.responses.parse({ model, input: question, text, max_output_tokens: 100 });
  assert.ok(["red", "green"].includes(parsed.output_parsed.name));
  const tool = { type: "function", name: weather.name, parameters: weather.schema, strict: true };
  const conversation = await client.conversations.create({});
  const asked = { model, conversation: conversation.id, tools: [tool], max_output_tokens: 100 };
  const called = await client.responses.create({ ...asked, input: question, tool_choice: "required" });
  const calls = called.output.filter((item) => item.type === "function_call");
  assert.ok(calls.length > 0);
  const input = calls.map((call) => ({ type: "function_call_output", call_id: call.call_id, output: "4 degrees" }));
  assert.equal((await client.responses.create({ ...asked, input, max_output_tokens: 16 })).object, "response");
  assert.ok((await all(client.conversations.items.list(conversation.id))).length >= 2 + 2 * calls.length);
});

test("a response in the background", async () => {
  let response = await client.responses.create({ model, input: question, max_output_tokens: 16, background: true });
  while (["queued", "in_progress"].includes(response.status)) response = await client.responses.retrieve(response.id);
  assert.ok(["completed", "incomplete"].includes(response.status));
});

test("embeddings and models", async () => {
  const { data } = await client.embeddings.create({ model: embedder, input: ["a cat", "a kitten", "tax law"] });
  const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
  const [cat, kitten, law] = data.map((one) => one.embedding);
  assert.ok(dot(cat, kitten) > dot(cat, law));
  assert.deepEqual((await all(client.models.list())).map((one) => one.id).sort(), [embedder, model].sort());
  assert.equal((await client.models.retrieve(model)).id, model);
});

test("errors are the SDK's own", async () => {
  await assert.rejects(client.chat.completions.create({ model, messages: [] }), OpenAI.BadRequestError);
  await assert.rejects(client.chat.completions.create({ model: "another", messages }), OpenAI.NotFoundError);
});

test("a client that leaves", async () => {
  const stream = await client.chat.completions.create({ model, messages, max_tokens: 4000, stream: true });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  assert.ok(stream.controller.signal.aborted);
});
