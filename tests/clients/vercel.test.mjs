import assert from "node:assert/strict";
import { test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { embedder, model, question, url, weather } from "./server.mjs";

const settings = { baseURL: `${url}/v1`, apiKey: "none" };
const openai = createOpenAI(settings);
const compatible = createOpenAICompatible({ ...settings, name: "local", includeUsage: true, supportsStructuredOutputs: true });
const models = {
  "chat completions": openai.chat(model),
  responses: openai.responses(model),
  messages: createAnthropic(settings)(model),
  compatible: compatible(model),
};

for (const [name, spoken] of Object.entries(models)) {
  const asked = { model: spoken, prompt: question, temperature: 0, maxRetries: 0 };

  test(`${name}: a text, in one piece and streamed`, async () => {
    const whole = await generateText({ ...asked, maxOutputTokens: 16 });
    const streamed = streamText({ ...asked, maxOutputTokens: 16, onError: ({ error }) => assert.fail(error) });
    assert.equal(await streamed.text, whole.text);
    assert.equal((await streamed.usage).outputTokens, whole.usage.outputTokens);
  });

  test(`${name}: an agent's steps`, async () => {
    const seen = [];
    const tools = {
      [weather.name]: tool({
        description: weather.description,
        inputSchema: jsonSchema(weather.schema),
        execute: (input) => seen.push(input) && "4 degrees",
      }),
    };
    const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber < 2 ? "required" : "none" });
    const limits = { maxOutputTokens: 120, stopWhen: stepCountIs(3) };
    const { steps } = await generateText({ ...asked, ...limits, tools, prepareStep });
    assert.deepEqual(steps.map((step) => step.toolCalls.length > 0), [true, true, false]);
    assert.ok(seen.length >= 2 && seen.every(({ unit }) => ["celsius", "kelvin"].includes(unit)));
  });

  test(`${name}: an object`, async () => {
    const output = Output.object({ schema: z.object({ name: z.enum(["red", "green"]) }) });
    const made = await generateText({ ...asked, output, maxOutputTokens: 60 });
    assert.ok(["red", "green"].includes(made.output.name));
  });
}

test("embeddings", async () => {
  const made = await embedMany({ model: compatible.textEmbeddingModel(embedder), values: ["a cat", "tax law"] });
  assert.deepEqual(made.embeddings.map((one) => one.length), [384, 384]);
});
