// Subscribes to topics of a channel, and prints each message; publishes what it is told to.
// Arguments: the channel, and its topics. Each line of its input is a topic with `data` or `stream`.
import { createInterface } from "node:readline";
import { Inngest } from "inngest";

const [channel, ...topics] = process.argv.slice(2);
const client = new Inngest({ id: "reader" });
const isOld = client.createFunction.length === 3;
const { subscribe, getSubscriptionToken } = isOld
  ? await import("@inngest/realtime")
  : await import("inngest/realtime");
const say = (value) => console.log(JSON.stringify(value));

const publish = async (topic, data) => {
  if (isOld) await client["inngestApi"].publish({ channel, topics: [topic] }, data);
  else await client.realtime.publish({ channel, topic }, data);
};

try {
  const token = await getSubscriptionToken(client, { channel, topics });
  await subscribe(token, ({ topic, kind, data, runId }) => say({ topic, kind, data, runId }));
  say("subscribed");
} catch (error) {
  say({ error: error.message });
}

for await (const line of createInterface({ input: process.stdin })) {
  const { topic, data, stream } = JSON.parse(line);
  await publish(topic, stream === undefined ? data : new Blob([stream]).stream());
}
process.exit();
