// Two applications in one process: `called` is called once for each step, `checkpointed` lets the
// SDK save steps while a call goes on, where the server offers that. What they did is at /notes.
import { createServer } from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { Inngest } from "inngest";
import { serve } from "inngest/node";

const SLOW_MS = 10_000;
const empty = () => ({ calls: 0, open: 0, most_open: 0, steps: 0, first: {}, after: {} });
let notes = empty();

function application(id, checkpointing) {
  const client = new Inngest({ id, checkpointing });
  const on = (name, run) => client.createFunction({ id: name, triggers: [{ event: `${id}/${name}` }] }, run);
  const step = (result) => () => {
    notes.steps += 1;
    return result;
  };
  const functions = [
    on("three", async ({ event, step: { run } }) => {
      const { n } = event.data;
      await run("first", () => {
        notes.first[n] ??= Date.now();
        return step({ n, text: "one" })();
      });
      const { total } = await run("second", step({ total: n + 2 }));
      return await run("third", step({ total }));
    }),
    on("slow", async ({ step: { run } }) => await run("slow", () => pause(SLOW_MS, "done"))),
    on("asleep", async ({ event, step: { run, sleep } }) => {
      await run("before", step("sleeps"));
      await sleep("sleep", event.data.ms);
      await run("after", () => (notes.after[event.data.n] ??= Date.now()));
    }),
    on("waiting", async ({ event, step: { run, waitForEvent } }) => {
      await run("before", step("waits"));
      await waitForEvent("answer", {
        event: `${id}/answer`,
        timeout: "5m",
        if: "event.data.n == async.data.n",
      });
      await run("after", step("goes on"));
    }),
  ];
  return serve({ client, functions, servePath: `/${id}` });
}

const applications = {
  "/called": application("called", false),
  "/checkpointed": application("checkpointed", true),
};

function counted(request, response) {
  if (request.method === "POST") {
    notes.calls += 1;
    notes.open += 1;
    notes.most_open = Math.max(notes.most_open, notes.open);
    response.on("close", () => (notes.open -= 1));
  }
}

createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  if (pathname === "/notes") {
    response.end(JSON.stringify(notes));
  } else if (pathname === "/clear") {
    notes = { ...empty(), open: notes.open };
    response.end();
  } else if (applications[pathname]) {
    counted(request, response);
    applications[pathname](request, response);
  } else {
    response.writeHead(404).end();
  }
}).listen(Number(process.env.PORT), "127.0.0.1");
