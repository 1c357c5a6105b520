// An application that only registers: its functions are named on the command line.
// Arguments: the port, the id of the application, then `name:event`, or `name:event:expression`.
import { createServer } from "node:http";
import { Inngest } from "inngest";
import { serve } from "inngest/node";

const [port, id, ...wanted] = process.argv.slice(2);
const client = new Inngest({ id });
const isOld = client.createFunction.length === 3; // version 3 takes the trigger by itself
const functions = wanted.map((what) => {
  const [name, event, ...rest] = what.split(":");
  const trigger = rest.length ? { event, if: rest.join(":") } : { event };
  const options = { id: name, name: name.toUpperCase(), retries: 2, onFailure: async () => {} };
  const run = async ({ event: received }) => received.name;
  return isOld
    ? client.createFunction(options, trigger, run)
    : client.createFunction({ ...options, triggers: [trigger] }, run);
});
createServer(serve({ client, functions })).listen(Number(port), "127.0.0.1");
