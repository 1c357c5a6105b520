// The application of the tests whose steps reach beyond it: signals, requests, and realtime.
// Arguments: the port, and the id of the application. The key of services is in REACH_KEY.
import { createServer } from "node:http";
import { Inngest } from "inngest";
import { serve } from "inngest/node";

const [port, id] = process.argv.slice(2);
const client = new Inngest({ id });
const isOld = client.createFunction.length === 3; // version 3 takes the trigger by itself
const functions = [];

function made(name, run) {
  const options = { id: name, retries: 1 };
  const triggers = [{ event: `reach/${name}` }];
  functions.push(
    isOld
      ? client.createFunction(options, triggers, run)
      : client.createFunction({ ...options, triggers }, run),
  );
}

const caught = async (what) => {
  try {
    return { value: await what() };
  } catch (error) {
    return { name: error.name, error: error.message };
  }
};

made("wait", async ({ event, step }) => {
  const { signal, conflict = "fail", timeout = "1h" } = event.data;
  return await step.waitForSignal("wait", { signal, timeout, onConflict: conflict });
});

made("send", async ({ event, step }) => {
  return await step.sendSignal("send", event.data);
});

made("infer", async ({ event, step }) => {
  const { provider, url: baseUrl, body } = event.data;
  const options = { model: "model-1", apiKey: process.env.REACH_KEY, baseUrl };
  if (provider === "anthropic") options.defaultParameters = { max_tokens: 10 };
  const model = step.ai.models[provider](options);
  return await caught(() => step.ai.infer("ask", { model, body }));
});

made("fetch", async ({ event, step }) => {
  const { url, ...options } = event.data;
  options.headers = { authorization: `Bearer ${process.env.REACH_KEY}`, ...options.headers };
  return await caught(async () => {
    const answer = await step.fetch(url, options);
    const kind = answer.headers.get("x-kind");
    return { status: answer.status, kind, text: await answer.text() };
  });
});

made("both", async ({ event, step }) => {
  const [answer, own] = await Promise.all([
    step.fetch(event.data.url),
    step.run("own", () => "own"),
  ]);
  return { text: await answer.text(), own };
});

const handler = serve({ client, functions });
createServer((request, response) => handler(request, response)).listen(Number(port), "127.0.0.1");
