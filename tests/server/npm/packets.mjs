// Payloads and outputs that are large, through the official client: it uploads the ones and fetches the others by itself. And
// what it asks of deployments and runs.
// TRIGGER_API_URL and TRIGGER_SECRET_KEY are set as for any program. Somebody echoes runs meanwhile.
import { batch, configure, deployments, query, runs, tasks } from "@trigger.dev/sdk";

configure({ requestOptions: { retry: { maxAttempts: 1 } } });

const told = {};
const size = (value) => JSON.stringify(value)?.length;

async function echoed(run) {
  const { payload, output } = await runs.poll(run, { pollIntervalMs: 50 });
  return [size(payload), size(output)];
}

const sent = [];
const ask = globalThis.fetch;
globalThis.fetch = (url, options) => {
  sent.push(`${options?.method ?? "GET"} ${new URL(url).pathname.split("/").slice(1, 4).join("/")}`);
  return ask(url, options);
};

const large = { text: "é".repeat(100_000), when: new Date(0) };
const run = await tasks.trigger("echo", large);
told.uploads = sent.splice(0);
told.large = await echoed(run);
told.text = await echoed(await tasks.trigger("echo", "x".repeat(200_000)));
// More than a row holds: the run tells it by URL.
told.veryLarge = await echoed(await tasks.trigger("echo", { text: "x".repeat(800_000) }));
told.small = await echoed(await tasks.trigger("echo", { text: "x" }));

const items = [150_000, 10, 700_000].map((length) => ({ id: "echo", payload: { text: "x".repeat(length) } }));
const { batchId } = await batch.trigger(items);
let found;
do {
  await new Promise((done) => setTimeout(done, 50));
  found = await batch.retrieve(batchId);
} while (found.status !== "COMPLETED");
told.batch = await Promise.all(found.runs.map(echoed));

const current = await deployments.retrieveCurrent();
told.current = [current.version, current.status, current.runtime, current.runtimeVersion];
told.deployments = [];
for await (const each of deployments.list({ limit: 1, status: "DEPLOYED", period: "1h" })) told.deployments.push(each.version);

const asked = "SELECT status, count() AS n FROM runs GROUP BY status";
told.query = (await query.execute(asked, { period: "1h", scope: "environment" })).results;
told.csv = (await query.execute(asked, { from: new Date(0), to: Date.now() + 60_000, format: "csv" })).results;
told.badQuery = await query.execute("SELECT pg_sleep(1) FROM runs").catch((error) => [error.status, error.message.slice(0, 36)]);

process.stdout.write(JSON.stringify(told), () => process.exit(0));
