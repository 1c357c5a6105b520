// An application whose functions have rules of flow control, or invoke others; what they did is its
// ledger, at /ledger. Arguments: the port, and the id of the application.
import { createServer } from "node:http";
import { Inngest, referenceFunction } from "inngest";
import { serve } from "inngest/node";

const [port, id] = process.argv.slice(2);
const client = new Inngest({ id });
const isOld = client.createFunction.length === 3; // version 3 takes the trigger by itself
const functions = [];
let ledger = [];
let letGo = () => {};
let gate = new Promise((resolve) => (letGo = resolve));

function made(name, options, run, triggers = [{ event: `rule/${name}` }]) {
  const all = { id: name, retries: 0, ...options };
  functions.push(
    isOld
      ? client.createFunction(all, triggers, run)
      : client.createFunction({ ...all, triggers }, run),
  );
}

const note = async ({ event }) => ledger.push(event.data.n);
const noteAndNap = async ({ event, step }) => {
  await step.run("note", () => ledger.push(event.data.n));
  await step.sleep("nap", "2h");
  await step.run("then", () => ledger.push(`${event.data.n} awake`));
};
const noteAndHold = async ({ event }) => {
  ledger.push(event.data.n);
  await gate;
};

made("ask", {}, async ({ event, step }) => {
  const { app, function: functionId, data, timeout } = event.data;
  const called = referenceFunction({ appId: app, functionId });
  try {
    return { value: await step.invoke("ask", { function: called, data, timeout }) };
  } catch (error) {
    return { error: error.message };
  }
});

made("keyed", { concurrency: { limit: 1, key: "event.data.a + '-' + event.data.b" } }, noteAndHold);
made("throttled", { throttle: { limit: 1, period: "10s" } }, note);
made("limited", { rateLimit: { limit: 1, period: "1h", key: "event.data.k" } }, note);
made("once", { idempotency: "event.data.k" }, note);
made("debounced", { debounce: { period: "10s", key: "event.data.k" } }, note);
made(
  "urgent",
  { concurrency: 1, priority: { run: "event.data.vip ? 100 : 0" } },
  note,
);
made("single", { singleton: { key: "event.data.k", mode: "skip" } }, noteAndNap);
made("latest", { singleton: { key: "event.data.k", mode: "cancel" } }, noteAndNap);
made("timed", { timeouts: { finish: "1h" } }, noteAndNap);
made(
  "cancelled",
  { cancelOn: [{ event: "rule/stop", if: "event.data.n == async.data.n" }] },
  noteAndNap,
);
made(
  "ticking",
  {},
  async ({ event }) => ledger.push({ name: event.name, cron: event.data.cron }),
  [{ cron: "TZ=Europe/Paris 0 5 * * *" }],
);

const handler = serve({ client, functions });
createServer((request, response) => {
  if (request.url === "/ledger") {
    response.end(JSON.stringify(ledger));
  } else if (request.url === "/clear") {
    ledger = [];
    letGo();
    gate = new Promise((resolve) => (letGo = resolve));
    response.end();
  } else handler(request, response);
}).listen(Number(port), "127.0.0.1");
