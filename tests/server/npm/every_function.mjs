// Every function of the official client that a back end may call, once, against a running server. Prints a JSON object: the name
// of each, and what it gave, cut down to what is the same each time. TRIGGER_API_URL and TRIGGER_SECRET_KEY are set as for any
// program. A function that this version doesn't have is left out. A refusal is told by its status.
import * as sdk from "@trigger.dev/sdk";

const { auth, batch, configure, deployments, envvars, idempotencyKeys, query, queues, runs, schedules, streams, tasks, wait } = sdk;
const once = { retry: { maxAttempts: 1 } };
configure({ requestOptions: once });

const PATIENCE_MS = 60_000;
const told = {};

// Asks one function, named as an author writes it, for example "runs.bulk.cancel". It answers what `ask` made of it.
async function call(name, ask) {
  const found = name.split(" ")[0].split(".").reduce((value, part) => value?.[part], sdk);
  if (!found) return;
  const late = Symbol();
  let timer;
  try {
    const patience = new Promise((resolve) => (timer = setTimeout(resolve, PATIENCE_MS, late)));
    const answer = await Promise.race([ask(found), patience]);
    told[name] = answer === late ? "no answer" : answer === undefined ? "nothing" : answer;
  } catch (error) {
    told[name] = error.status ?? error.cause?.status ?? error.name;
  } finally {
    clearTimeout(timer);
  }
}

async function all(iterable) {
  const found = [];
  for await (const each of iterable) found.push(each);
  return found;
}

const isRun = (text) => /^run_\w+$/.test(text);
const as = (accessToken, ask) => auth.withAuth({ accessToken, requestOptions: once }, ask);

// -- triggering, and reading what came of it

let run;
await call("tasks.trigger", async (trigger) => {
  run = await trigger("echo", { n: 1, at: new Date(0) }, { tags: ["first", "a:b"], metadata: { by: "node" }, ttl: "10m" });
  return [isRun(run.id), typeof run.publicAccessToken];
});
await call("runs.poll", async (poll) => {
  const { status, output, isCompleted, isSuccess, tags, metadata, payload } = await poll(run, { pollIntervalMs: 20 });
  return { status, output, isCompleted, isSuccess, tags, metadata, payload };
});
await call("runs.retrieve", async (retrieve) => {
  const { id, taskIdentifier, attemptCount, version, createdAt } = await retrieve(run.id);
  return [id === run.id, taskIdentifier, attemptCount, version, createdAt instanceof Date];
});
await call("task", async (task) => isRun((await task({ id: "echo", run: async () => {} }).trigger({ n: 2 })).id));
await call("tasks.trigger with 200 kB", async (trigger) => {
  const { id } = await trigger("echo", { long: "x".repeat(200_000) });
  const { payload, output } = await runs.poll(id, { pollIntervalMs: 20 });
  return [payload?.long?.length, output?.long?.length];
});
await call("idempotencyKeys.create", async (create) => {
  const idempotencyKey = await create(["order", "7"], { scope: "global" });
  const [first, again] = [await tasks.trigger("echo", 1, { idempotencyKey }), await tasks.trigger("echo", 2, { idempotencyKey })];
  return first.id === again.id;
});
await call("idempotencyKeys.reset", async (reset) => {
  const idempotencyKey = await idempotencyKeys.create("reset me", { scope: "global" });
  const first = await tasks.trigger("echo", 1, { idempotencyKey });
  await reset("echo", idempotencyKey);
  return first.id !== (await tasks.trigger("echo", 2, { idempotencyKey })).id;
});

// -- batches

let made;
await call("tasks.batchTrigger", async (batchTrigger) => {
  made = await batchTrigger("echo", [{ payload: 1, options: { tags: ["in a batch"] } }, { payload: 2 }]);
  return [made.runCount, typeof made.publicAccessToken];
});
await call("batch.trigger", async (trigger) => (await trigger([{ id: "echo", payload: 1 }, { id: "mail", payload: 2 }])).runCount);
await call("batch.triggerByTask", async (trigger) => {
  const task = sdk.task({ id: "echo", run: async () => {} });
  return (await trigger([{ task, payload: 1 }])).runCount;
});
await call("batch.retrieve", async (retrieve) => {
  const { status, runCount, runs } = await retrieve(made.batchId);
  return [["PENDING", "PROCESSING", "COMPLETED"].includes(status), runCount, runs.length];
});

// -- following live

await call("runs.reschedule", async (reschedule) => {
  const later = await tasks.trigger("echo", "soon", { delay: "1h" });
  const { id, status, delayedUntil } = await reschedule(later.id, { delay: "2h" });
  return [id === later.id, status, delayedUntil - Date.now() > 3600_000];
});
await call("runs.subscribeToRun", async (subscribe) => {
  const later = await tasks.trigger("echo", { live: true }, { delay: "1h", metadata: { a: 1 }, tags: ["live"] });
  const seen = [];
  for await (const { status, output, metadata, tags } of subscribe(later.id)) {
    if (seen.length === 0) await runs.reschedule(later.id, { delay: new Date(Date.now() + 100) });
    if (seen.at(-1)?.status !== status) seen.push({ status });
    if (status === "COMPLETED") return [seen[0].status, status, output, metadata, tags];
  }
  return seen;
});
await call("runs.subscribeToRunsWithTag", async (subscribe) => {
  const seen = new Set();
  const early = await tasks.trigger("echo", 1, { tags: ["both", "early"] });
  for await (const { id, taskIdentifier } of subscribe("both")) {
    if (seen.size === 0) await tasks.trigger("mail", 2, { tags: ["both", "late"] });
    seen.add(id === early.id ? "the one before" : taskIdentifier);
    if (seen.size === 2) return [...seen].sort();
  }
});
await call("runs.subscribeToBatch", async (subscribe) => {
  const over = new Set();
  for await (const { id, status } of subscribe(made.batchId)) {
    if (status === "COMPLETED") over.add(id);
    if (over.size === made.runCount) return over.size;
  }
});

// -- streams

let streaming;
await call("streams.read", async (read) => {
  streaming = await tasks.trigger("stream", ["one", { two: 2 }]);
  return all(await read(streaming.id, "tokens", { timeoutInSeconds: 60 }));
});
await call("runs.fetchStream", async (fetchStream) => {
  const parts = await fetchStream(streaming.id, "tokens", { timeoutInSeconds: 60 });
  return all(parts);
});
await call("streams.define", async (define) => all(await define({ id: "tokens" }).read(streaming.id, { startIndex: 1, timeoutInSeconds: 60 })));
await call("streams.input", async (input) => {
  const { id } = await tasks.trigger("stay");
  await input({ id: "answers" }).send(id, { approved: true });
  return "sent";
});

// -- the rest of runs

await call("runs.list", async (list) => {
  const page = await list({ tag: "first", status: ["COMPLETED"], taskIdentifier: "echo", period: "1h", limit: 5 });
  return page.data.map(({ id, env }) => [id === run.id, env.name]);
});
await call("runs.list of a project", async (list) => {
  const page = await list("proj_any", { env: ["dev"], tag: "first", status: ["COMPLETED"] });
  return page.data.map(({ id }) => id === run.id);
});
await call("runs.cancel", async (cancel) => {
  const later = await tasks.trigger("echo", 1, { delay: "1h" });
  return [(await cancel(later.id)).id === later.id, (await runs.retrieve(later.id)).status];
});
await call("runs.replay", async (replay) => {
  const { id } = await replay(run.id);
  return [isRun(id), id !== run.id];
});
await call("runs.bulk.cancel", async (cancel) => {
  const later = { tags: ["many"], delay: "1h" };
  const [first] = [await tasks.trigger("echo", 1, later), await tasks.trigger("echo", 2, later)];
  const { id } = await cancel({ filter: { tag: "many" }, name: "all of many" });
  const { status, type, name, counts } = await runs.bulk.poll(id, { pollIntervalMs: 20 });
  return [status, type, name, counts.total, (await runs.retrieve(first.id)).status];
});
let action;
await call("runs.bulk.replay", async (replay) => {
  action = await replay({ runIds: [run.id] });
  return /^bulk_\w+$/.test(action.id);
});
await call("runs.bulk.poll", async (poll) => (await poll(action.id, { pollIntervalMs: 20 })).counts);
await call("runs.bulk.retrieve", async (retrieve) => (await retrieve(action.id)).type);
await call("runs.bulk.list", async (list) => (await all(list())).length);
await call("runs.bulk.abort", async (abort) => (await abort(action.id)).id === action.id);

// -- schedules and queues

let schedule;
await call("schedules.create", async (create) => {
  const asked = { task: "echo", cron: "0 3 * * 1", timezone: "America/New_York", externalId: "user_1", deduplicationKey: "k" };
  schedule = await create(asked);
  const { type, active, generator, timezone, nextRun } = schedule;
  return [type, active, generator.expression, timezone, nextRun instanceof Date];
});
await call("schedules.retrieve", async (retrieve) => (await retrieve(schedule.id)).externalId);
await call("schedules.update", async (update) => {
  const { generator, timezone } = await update(schedule.id, { task: "echo", cron: "30 12 * * *", timezone: "Europe/Warsaw" });
  return [generator.expression, timezone];
});
await call("schedules.deactivate", async (deactivate) => (await deactivate(schedule.id)).active);
await call("schedules.activate", async (activate) => (await activate(schedule.id)).active);
await call("schedules.list", async (list) => (await list({ page: 1, perPage: 2 })).data.length);
await call("schedules.del", async (del) => (await del(schedule.id)).id === schedule.id);
await call("schedules.timezones", async (timezones) => (await timezones()).timezones[0]);

const echo = { type: "task", name: "echo" };
await call("queues.list", async (list) => (await list({ perPage: 20 })).data.map(({ name }) => name).includes("echo"));
await call("queues.retrieve", async (retrieve) => {
  const { name, type, paused, concurrencyLimit } = await retrieve(echo);
  return [name, type, paused, concurrencyLimit];
});
await call("queues.pause", async (pause) => (await pause(echo)).paused);
await call("queues.resume", async (resume) => (await resume(echo)).paused);
await call("queues.overrideConcurrencyLimit", async (override) => (await override(echo, 3)).concurrencyLimit);
await call("queues.resetConcurrencyLimit", async (reset) => (await reset(echo)).concurrencyLimit);

// -- environment variables

const project = ["torpor", "dev"];
await call("envvars.create", (create) => create(...project, { name: "GREETING", value: "hello ✓" }));
await call("envvars.retrieve", async (retrieve) => (await retrieve(...project, "GREETING")).value);
await call("envvars.upload", (upload) => upload(...project, { variables: { GREETING: "good day", OTHER: "o" }, override: true }));
await call("envvars.update", (update) => update(...project, "OTHER", { value: "changed" }));
await call("envvars.list", async (list) => (await list(...project)).map(({ name, value }) => `${name}=${value}`).sort());
await call("envvars.del", (del) => del(...project, "OTHER"));

// -- wait tokens

let token;
await call("wait.createToken", async (create) => {
  token = await create({ timeout: "1h", tags: ["doc-1"], idempotencyKey: "token", idempotencyKeyTTL: "1h" });
  return [/^waitpoint_\w+$/.test(token.id), token.isCached, typeof token.publicAccessToken, token.url.startsWith("http")];
});
await call("wait.completeToken", (complete) => complete(token, { approved: true, at: 5 }));
await call("wait.retrieveToken", async (retrieve) => {
  const { status, output, tags } = await retrieve(token);
  return { status, output, tags };
});
await call("wait.listTokens", async (list) => (await all(list({ status: "COMPLETED", tags: ["doc-1"] }))).map(({ id }) => id === token.id));

// -- public tokens

const reads = (accessToken) => as(accessToken, async () => (await runs.retrieve(run.id)).id === run.id);
await call("auth.createPublicToken", async (create) => reads(await create({ scopes: { read: { runs: [run.id] } }, expirationTime: "1h" })));
await call("auth.withPublicToken", async (withToken) => {
  let read;
  await withToken({ scopes: { read: { tags: ["first"] } } }, async () => (read = (await runs.retrieve(run.id)).id === run.id));
  return read;
});
await call("auth.createTriggerPublicToken", async (create) => as(await create("echo"), async () => isRun((await tasks.trigger("echo", 1)).id)));
await call("auth.createBatchTriggerPublicToken", async (create) =>
  as(await create("echo"), async () => (await tasks.batchTrigger("echo", [{ payload: 1 }])).runCount),
);
await call("TriggerClient", async (TriggerClient) => {
  const client = new TriggerClient({ baseURL: process.env.TRIGGER_API_URL, accessToken: process.env.TRIGGER_SECRET_KEY });
  return isRun((await client.tasks.trigger("echo", 1)).id);
});

// -- deployments and queries

await call("deployments.retrieveCurrent", async (current) => {
  const { version, status, runtime } = await current();
  return [version, status, runtime];
});
await call("deployments.list", async (list) => (await all(list({ limit: 5 }))).length);
await call("query.execute", async (execute) => {
  const { results } = await execute("SELECT count(*) AS n FROM runs WHERE task_identifier = 'stream'", { period: "1h" });
  return results;
});
await call("query.dashboards.list", (list) => list());

// -- what isn't served

await call("tasks.trigger in a region", (trigger) => trigger("echo", 1, { region: "eu-central-1" }));
await call("concurrencyLimits.list", (list) => list());
await call("prompts.list", (list) => list());
await call("sessions.list", (list) => list());

// Live requests that were given up would keep node alive.
process.stdout.write(JSON.stringify(told), () => process.exit(0));
