// Triggers a task that is written in Python, follows it live, answers its question, and prints its output.
// The client is Trigger.dev's own; TRIGGER_API_URL and TRIGGER_SECRET_KEY say that the server is Torpor.
import { createInterface } from "node:readline/promises";
import { runs, tasks, wait } from "@trigger.dev/sdk";

const number = Date.now();
const order = await tasks.trigger("order", { number, item: "lamp", count: 2 }, { tags: ["from node"] });
console.log(`${order.id} is triggered`);

let told;
for await (const run of runs.subscribeToRun(order.id)) {
  if (run.status !== told) {
    told = run.status;
    console.log(told, run.metadata?.step ?? "");
    if (told === "WAITING") await answer();
  }
  if (run.isCompleted) console.log(run.output ?? run.error);
}

async function answer() {
  for await (const question of wait.listTokens({ status: "WAITING", tags: [`order-${number}`] })) {
    const terminal = createInterface({ input: process.stdin, output: process.stdout });
    const said = await terminal.question("The parcel is packed. Ship it? [y/n] ");
    terminal.close();
    await wait.completeToken(question.id, { approved: said.trim() === "y", by: "node" });
  }
}
