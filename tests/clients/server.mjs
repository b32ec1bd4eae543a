// Where the server is, and what the clients ask of it.
export const url = process.env.SERVER_URL;
export const model = "smollm2-135m-instruct";
export const embedder = "all-minilm-l6-v2";

export const question = "Name a colour.";

export const weather = {
  name: "get_weather",
  description: "The weather at a place",
  schema: {
    type: "object",
    properties: { city: { type: "string", maxLength: 20 }, unit: { enum: ["celsius", "kelvin"] } },
    required: ["city", "unit"],
    additionalProperties: false,
  },
};

export async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}
