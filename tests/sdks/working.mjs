// The application of the tests in which functions run: what it did is its ledger, at /ledger.
// Arguments: the port, and the id of the application.
import { createServer } from "node:http";
import { Inngest, NonRetriableError, RetryAfterError } from "inngest";
import { serve } from "inngest/node";

const [port, id] = process.argv.slice(2);
const client = new Inngest({ id });
const isOld = client.createFunction.length === 3; // version 3 takes the trigger by itself
const functions = [];
let ledger = [];
let letGo = () => {};
let gate = new Promise((resolve) => (letGo = resolve));

function made(name, options, triggers, run) {
  const all = { id: name, retries: 1, ...options };
  const made = isOld
    ? client.createFunction(all, triggers, run)
    : client.createFunction({ ...all, triggers }, run);
  functions.push(made);
  return made;
}

const on = (name) => [{ event: `work/${name}` }];
const noted = (name, value) => () => {
  ledger.push(name);
  return value;
};
const caught = async (what) => {
  try {
    return { value: await what() };
  } catch (error) {
    return { error: error.message };
  }
};
const failed = async ({ event, error }) => {
  const { function_id, run_id } = event.data;
  ledger.push({ error: error.message, data: event.data.event.data, function_id, run_id });
};

const numbers = (events) => events.map((event) => event.data.n);
const failedBatch = async ({ event, error }) => {
  const { event: first, events } = event.data;
  ledger.push({ error: error.message, first: first.data.n, all: numbers(events) });
};

made("serial", {}, on("serial"), async ({ event, step }) => {
  const one = await step.run("one", noted("one", event.data.n + 1));
  const two = await step.run("two", noted("two", one * 2));
  return await step.run("three", noted("three", { one, two }));
});

made("plain", {}, on("plain"), async ({ event }) => event.data.value);

made("throws", { onFailure: failed }, on("throws"), async ({ attempt }) => {
  ledger.push(attempt);
  throw new Error("boom");
});

made("fatal", { onFailure: failed }, on("fatal"), async ({ attempt }) => {
  ledger.push(attempt);
  throw new NonRetriableError("never");
});

made("patient", {}, on("patient"), async ({ attempt }) => {
  ledger.push(attempt);
  if (attempt === 0) throw new RetryAfterError("busy", 3_600_000);
  return "done";
});

made("failing_step", { onFailure: failed }, on("failing_step"), async ({ event, step }) => {
  await step.run("good", noted("good"));
  const bad = () =>
    step.run("bad", () => {
      ledger.push("bad");
      throw new Error("no");
    });
  return event.data.catch ? await caught(bad) : await bad();
});

made("nap", {}, on("nap"), async ({ event, step }) => {
  await step.run("before", noted("before"));
  if (event.data.until) await step.sleepUntil("nap", new Date(event.data.until));
  else await step.sleep("nap", "2d");
  return await step.run("after", noted("after", "awake"));
});

made("wait", {}, on("wait"), async ({ step }) => {
  const answer = await step.waitForEvent("answer", {
    event: "work/answer",
    timeout: "1h",
    if: "event.data.n == async.data.n && async.data.kind in ['yes', 'no']",
  });
  return answer && { name: answer.name, data: answer.data };
});

const child = made("child", { retries: 0 }, on("child"), async ({ event, step }) => {
  if (event.data.fail) throw new NonRetriableError("child failed");
  if (event.data.sleep) await step.sleep("long", "1d");
  return { got: event.data.n, event: event.name };
});

made("parent", {}, on("parent"), async ({ event, step }) => {
  const call = (name, data, timeout) => () =>
    step.invoke(name, { function: child, data, ...(timeout && { timeout }) });
  return {
    good: await caught(call("good", { n: 5 })),
    bad: await caught(call("bad", { fail: true })),
    slow: await caught(call("slow", { sleep: true }, "10m")),
  };
});

made("parallel", {}, on("parallel"), async ({ step }) => {
  const found = await Promise.all([
    step.run("a", noted("a", "A")),
    step.run("b", noted("b", "B")),
    step.run("c", noted("c", "C")),
    step.sleep("nap", "1h"),
  ]);
  return await step.run("last", noted("last", found.slice(0, 3).join("")));
});

made("race", {}, on("race"), async ({ step, group }) => {
  const race = () =>
    Promise.race([
      step.run("quick", noted("quick", "quick")),
      step.sleep("slow", "1h").then(() => "slow"),
    ]);
  const winner = await (isOld ? race() : group.parallel(race));
  return await step.run("after", noted("after", winner));
});

const odd = { data: { data: 1, error: null }, list: [null, 0, ""], "ключ": "é\u{1f600}" };
made("odd", {}, on("odd"), async ({ step, event }) => {
  const values = [undefined, 0, "", null, false, odd, { error: "x" }, 12345678901234567890, 1e-7];
  const names = values.map((_, n) => `it's "n°${n}" 😀`);
  for (const [n, name] of names.entries()) await step.run(name, noted(n, values[n]));
  const again = await Promise.all(names.map((name, n) => n)); // no step
  const found = [];
  for (const n of again) found.push(await step.run("same", () => n));
  return { found, data: event.data };
});

made("unstorable", { retries: 0 }, on("unstorable"), async ({ event, step }) => {
  const text = event.data.kind === "nul" ? "a\u0000b" : "a\ud83db";
  return await step.run("text", noted("text", text));
});

made("large", {}, on("large"), async ({ step }) => {
  let size = 0;
  for (let n = 0; n < 7; n++) {
    size += (await step.run(`part ${n}`, noted(n, "x".repeat(1_000_000)))).length;
  }
  return size;
});

made(
  "chosen",
  {},
  [
    { event: "work/chosen", if: "event.data.kind in ['a', 'b'] && event.data.n > 1" },
    { event: "choose/*" },
    { event: "choose/this" },
  ],
  async ({ event }) => event.name,
);

const gathering = {
  batchEvents: { maxSize: 10, timeout: "30s", key: "event.data.tenant", if: "!event.data.alone" },
  onFailure: failedBatch,
};
made("gather", gathering, on("gather"), async ({ event, events, step }) => {
  const all = await step.run("all", () => {
    ledger.push(numbers(events));
    return numbers(events);
  });
  if (event.data.sleep) await step.sleep("nap", "1h");
  if (event.data.fail) {
    await step.run("fails", () => {
      ledger.push("fails");
      throw new Error("no batch");
    });
  }
  if (event.data.hold) {
    await step.run("held", async () => {
      ledger.push("held");
      await gate;
    });
  }
  return { first: event.data.n, all };
});

made("held", { onFailure: failed }, on("held"), async ({ step }) => {
  await step.run("held", async () => {
    ledger.push("held");
    await gate;
  });
  await step.run("then", noted("then"));
});

made("mended", { retries: 0 }, on("mended"), async ({ step }) => {
  await step.run("first", noted("first"));
  return await step.run("second", () => {
    const isMended = ledger.includes("second");
    ledger.push("second");
    if (!isMended) throw new NonRetriableError("broken");
    return "mended";
  });
});

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
