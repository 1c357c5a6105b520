// Sends what it is told through Inngest's SDK, and prints what that gives: ids, or the error.
import { Inngest } from "inngest";

const [events, times] = [JSON.parse(process.argv[2]), Number(process.argv[3])];
const client = new Inngest({ id: "tests" });
const sent = [];
try {
  for (let n = 0; n < times; n++) {
    const { ids } = await client.send(events);
    sent.push(...ids);
  }
  console.log(JSON.stringify({ ids: sent }));
} catch (error) {
  console.log(JSON.stringify({ ids: sent, error: String(error.message ?? error) }));
}
