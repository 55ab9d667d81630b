// What the tests share: the service that TestSDKs of infra/sdktest has started, and what its stand-in for the API has seen.
import Anthropic from "@anthropic-ai/sdk";

export const service = process.env.SDKTEST_SERVICE;
if (!service) throw new Error("go test claudepool/infra/sdktest runs these tests");

export const model = "claude-haiku-5-5";

/** The credential of a user of the service. */
export const key = (name) => `sk-ant-oat01-node-${name}`;

/** Counts the requests that are made with its fetch, and keeps the headers of the last answer. */
export function observer() {
  const seen = { requests: 0, headers: undefined };
  seen.fetch = async (...request) => {
    seen.requests++;
    const answer = await fetch(...request);
    seen.headers = answer.headers;
    return answer;
  };
  return seen;
}

/** A client of Anthropic's SDK for a user, and what is observed of its requests. */
export function user(name, options = {}) {
  const seen = observer();
  return { seen, client: new Anthropic({ baseURL: service, apiKey: key(name), fetch: seen.fetch, ...options }) };
}

/** A request of one message. */
export const ask = (text, more = {}) => ({ model, max_tokens: 1024, messages: [{ role: "user", content: text }], ...more });

/** What a message says. */
export const textOf = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

/** The calls that the API has seen for a text. */
export async function calls(text) {
  const answer = await fetch(`${process.env.SDKTEST_SEEN}?text=${encodeURIComponent(text)}`);
  return answer.json();
}

/** Waits until it is so. */
export async function until(isSo) {
  for (const end = Date.now() + 20_000; !(await isSo()); ) {
    if (Date.now() > end) throw new Error("it never was so");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
