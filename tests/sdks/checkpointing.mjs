// The application of the tests of checkpoints. Besides the ledger it notes its traffic, at /traffic:
// each call, and each checkpoint with the status that came back and what was sent.
// Arguments: the port, and the id of the application.
import { createServer } from "node:http";
import { Inngest, NonRetriableError } from "inngest";
import { serve } from "inngest/node";

const [port, id] = process.argv.slice(2);
let ledger = [];
let traffic = [];
let isAway = false;
let letGo = () => {};
let gate = new Promise((resolve) => (letGo = resolve));

async function watched(url, options) {
  if (!String(url).includes("/v1/checkpoint/")) return await fetch(url, options);
  const sent = JSON.parse(options.body);
  if (isAway) {
    traffic.push({ checkpoint: 0, sent });
    throw new TypeError("fetch failed");
  }
  const response = await fetch(url, options);
  traffic.push({ checkpoint: response.status, sent });
  return response;
}

const client = new Inngest({ id, fetch: watched });
const functions = [];
const made = (name, options, run) =>
  functions.push(
    client.createFunction(
      { id: name, retries: 1, triggers: [{ event: `point/${name}` }], ...options },
      run,
    ),
  );
const noted = (name, value) => () => {
  ledger.push(name);
  return value;
};
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

const three = async ({ event, step }) => {
  const one = await step.run("one", noted("one", event.data.n + 1));
  const two = await step.run("two", noted("two", one * 2));
  return await step.run("three", noted("three", { one, two }));
};
made("three", {}, three);
made("plain", { checkpointing: false }, three);

made("buffered", { checkpointing: { bufferedSteps: 3 } }, async ({ step }) => {
  for (let n = 0; n < 5; n++) await step.run(`part ${n}`, noted(n, n));
  return "done";
});

made("held", {}, async ({ step }) => {
  await step.run("first", noted("first", 1));
  await step.run("second", async () => {
    ledger.push("second");
    await gate;
    return 2;
  });
  return await step.run("third", noted("third", 3));
});

made("flaky", { retries: 2 }, async ({ step, attempt }) => {
  ledger.push(attempt);
  await step.run("good", noted("good"));
  if (attempt === 0) throw new Error("once");
  await step.run("better", noted("better"));
  return attempt;
});

made("failing", {}, async ({ step }) => {
  await step.run("good", noted("good"));
  await step.run("bad", () => {
    ledger.push("bad");
    throw new NonRetriableError("no");
  });
});

made("long", { checkpointing: { maxRuntime: "200ms" } }, async ({ step }) => {
  for (let n = 0; n < 6; n++) {
    await step.run(`part ${n}`, async () => {
      ledger.push(n);
      await pause(0.1);
    });
  }
  return "done";
});

made("mixed", {}, async ({ step }) => {
  await step.run("before", noted("before"));
  const pair = await Promise.all([
    step.run("a", noted("a", "A")),
    step.run("b", noted("b", "B")),
  ]);
  await step.run("between", noted("between"));
  await step.sleep("nap", "1h");
  await step.run("after", noted("after"));
  return pair.join("");
});

made("unstorable", { retries: 0 }, async ({ step }) => {
  await step.run("good", noted("good"));
  return await step.run("text", noted("text", "a\u0000b"));
});

const handler = serve({ client, functions });
createServer((request, response) => {
  if (request.url === "/ledger") {
    response.end(JSON.stringify(ledger));
  } else if (request.url === "/traffic") {
    response.end(JSON.stringify(traffic));
  } else if (request.url === "/away") {
    isAway = true;
    response.end();
  } else if (request.url === "/clear") {
    ledger = [];
    traffic = [];
    isAway = false;
    letGo();
    gate = new Promise((resolve) => (letGo = resolve));
    response.end();
  } else {
    const number = request.headers["x-inngest-generation-id"] ?? null;
    if (request.method === "POST") traffic.push({ call: number });
    handler(request, response);
  }
}).listen(Number(port), "127.0.0.1");
