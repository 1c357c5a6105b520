// An application with two functions, written with Inngest's SDK. It runs on Runyard:
//   npm install
//   INNGEST_DEV=http://localhost:8290 npm start
import { createServer } from "node:http";
import { Inngest } from "inngest";
import { serve } from "inngest/node";

const inngest = new Inngest({ id: "shop" });

const sendEmail = inngest.createFunction(
  { id: "send-email", triggers: [{ event: "shop/email.requested" }] },
  async ({ event, step }) => {
    const mail = await step.run("write", () => ({
      to: event.data.to,
      text: `Hello ${event.data.name}, your order is on its way.`,
    }));
    return await step.run("send", () => ({ to: mail.to, sent: mail.text.length }));
  },
);

const generateContent = inngest.createFunction(
  { id: "generate-content", triggers: [{ event: "shop/content.requested" }] },
  async ({ event, step }) => {
    const outline = await step.run("outline", () => ["Why", "How"].map((word) => `${word} ${event.data.topic}?`));
    const draft = await step.run("draft", () => outline.map((title) => `# ${title}`).join("\n\n"));
    return await step.run("publish", () => ({ title: outline[0], characters: draft.length }));
  },
);

const port = Number(process.env.PORT ?? 3000);
const handler = serve({ client: inngest, functions: [sendEmail, generateContent] });
createServer(handler).listen(port, "127.0.0.1", () => {
  console.log(`functions at http://localhost:${port}/api/inngest`);
});
