// What a back end does with runs and wait tokens, through the official client. Prints what came of it as JSON.
// TRIGGER_API_URL and TRIGGER_SECRET_KEY are set as for any program; RUNS names runs that are there: JSON, by what they are.
import { ApiClient } from "@trigger.dev/core/v3";
import { batch, configure, runs, tasks, wait } from "@trigger.dev/sdk";

// Of a refusal that is not to be tried again the first answer tells.
configure({ requestOptions: { retry: { maxAttempts: 1 } } });

const told = {};
const known = JSON.parse(process.env.RUNS);
const nameOf = Object.fromEntries(Object.entries(known).map(([name, id]) => [id, name]));
const names = (page) => page.data.map((run) => nameOf[run.id] ?? "another");

async function status(ask) {
  try {
    await ask();
    return 200;
  } catch (error) {
    return error.status ?? error.cause?.status ?? String(error);
  }
}

// Lists, by every filter of the client's.
const filters = {
  status: { status: ["FAILED", "CANCELED"] },
  taskIdentifier: { taskIdentifier: "mail/send" },
  version: { version: "v1" },
  tag: { tag: ["a b", "none"] },
  queue: { queue: { type: "task", name: "mail/send" } },
  queues: { queue: [{ type: "custom", name: "slow" }, { type: "task", name: "none" }] },
  machine: { machine: "micro" },
  region: { region: "eu" },
  isTest: { isTest: true },
  batch: { batch: process.env.BATCH },
  schedule: { schedule: "sched_none" },
  from: { from: new Date(Date.now() - 3600_000), to: new Date(Date.now() + 60_000), limit: 3 },
  until: { to: 1 },
  period: { period: "1h", limit: 2 },
  several: { status: "QUEUED", tag: "a b", taskIdentifier: ["echo", "mail/send"] },
};
told.lists = {};
for (const [name, filter] of Object.entries(filters)) told.lists[name] = names(await runs.list(filter));
told.unknownStatus = await status(() => runs.list({ status: "DONE" }));

// Pages in both directions: the client sends both cursors when it turns round.
const first = await runs.list({ tag: "page", limit: 2 });
const second = await first.getNextPage();
const back = await second.getPreviousPage();
const again = await back.getNextPage();
const last = await again.getNextPage();
told.pages = [first, second, back, again, last].map((page) => page.data.map((run) => run.id));
told.ends = [first.hasPreviousPage(), last.hasNextPage(), last.hasPreviousPage()];
const all = [];
for await (const run of runs.list({ tag: "page", limit: 2 })) all.push(run.id);
told.all = all;

// One run, in every state that is there, as the client reads it.
told.retrieved = {};
for (const [name, id] of Object.entries(known)) {
  const run = await runs.retrieve(id);
  told.retrieved[name] = [run.status, run.isCompleted, run.isFailed, run.attemptCount, run.error?.message ?? null];
}
const child = await runs.retrieve(known.child);
told.related = [child.relatedRuns.parent.id === known.parent, child.depth, child.triggerFunction];

// Replay with overrides, reschedule, cancel.
const replayed = await runs.replay(known.queued, {
  payload: { changed: true },
  tags: ["again"],
  metadata: { m: 1 },
  queue: "slow",
  concurrencyKey: "ada",
  machine: "micro",
  delay: "1h",
  ttl: "2h",
  idempotencyKey: "replay-1",
  idempotencyKeyTTL: "1h",
  maxAttempts: 2,
  maxDuration: 60,
  priority: 5,
});
const new_ = await runs.retrieve(replayed.id);
told.replayed = [new_.payload, new_.tags, new_.metadata, new_.status, new_.triggerFunction];
told.replayedAgain = (await runs.replay(known.completed)).id !== known.completed;
const moved = await runs.reschedule(replayed.id, { delay: "2h" });
told.rescheduled = moved.delayedUntil.getTime() - new_.delayedUntil.getTime() > 3_000_000;
told.rescheduleQueued = await status(() => runs.reschedule(known.queued, { delay: "1h" }));
told.canceled = (await runs.cancel(replayed.id)).id === replayed.id && (await runs.retrieve(replayed.id)).status;
told.unknown = [await status(() => runs.retrieve("run_unknown")), await status(() => runs.cancel("run_unknown"))];

// Many at once.
const bulk = await runs.bulk.cancel({ filter: { tag: "page", status: ["QUEUED"] }, name: "pages" });
const done = await runs.bulk.poll(bulk.id, { pollIntervalMs: 20 });
told.bulk = [done.type, done.status, done.counts, done.name, done.completedAt >= done.createdAt];
told.bulkRuns = (await runs.list({ bulkAction: bulk.id })).data.length;
const twice = await runs.bulk.replay({ runIds: [known.completed, "run_unknown"] });
told.bulkReplay = (await runs.bulk.poll(twice.id, { pollIntervalMs: 20 })).counts;
told.bulkList = (await runs.bulk.list({ limit: 1 })).data[0].id === twice.id;
told.bulkAbort = (await runs.bulk.abort(bulk.id)).id === bulk.id;
told.bulkRetrieve = (await runs.bulk.retrieve(bulk.id)).status;

// A trace, which only the client beneath asks for.
const beneath = new ApiClient(process.env.TRIGGER_API_URL, process.env.TRIGGER_SECRET_KEY);
const { trace } = await beneath.retrieveRunTrace(known.completed);
told.trace = [trace.rootSpan.data.taskSlug, trace.rootSpan.children.map((span) => span.data.message)];
told.span = (await beneath.retrieveSpan(known.completed, trace.rootSpan.id)).durationMs >= 0;
told.tracePage = (await beneath.retrieveRunTracePage(known.completed, { limit: 2 })).data.length;
told.events = Array.isArray((await beneath.listRunEvents(known.completed)).events);
told.project = names(await beneath.listProjectRuns("proj_any", { env: ["dev", "prod"], limit: 1, tag: "a b" }));
told.result = (await beneath.getRunResult(known.completed)).output;

// A batch, as older clients send it.
const whole = await beneath.batchTriggerV3?.({ items: [{ task: "echo", payload: "1" }] });
told.batch = whole && (await batch.retrieve(whole.id)).runCount;

// Wait tokens.
const token = await wait.createToken({ timeout: "1h", tags: ["t1", "t2"], idempotencyKey: "k", idempotencyKeyTTL: "1h" });
told.sameToken = (await wait.createToken({ idempotencyKey: "k" })).id === token.id;
const open = await wait.retrieveToken(token.id);
told.token = [open.status, open.tags, open.output ?? null, open.timeoutAt instanceof Date, open.idempotencyKey];
const short = await wait.createToken({ timeout: "1s", tags: "late" });
told.completed = await wait.completeToken(token.id, { yes: 1 });
told.completedAgain = await wait.completeToken(token.id, { yes: 2 });
told.output = (await wait.retrieveToken(token.id)).output;
const hook = await wait.createToken();
told.callback = (await fetch(hook.url, { method: "POST", body: "not json" })).status;
told.callbackOutput = (await wait.retrieveToken(hook.id)).output;
told.badCallback = (await fetch(hook.url.slice(0, -4) + "0000", { method: "POST" })).status;
let late = await wait.retrieveToken(short.id);
while (late.status === "WAITING") {
  await new Promise((done) => setTimeout(done, 50));
  late = await wait.retrieveToken(short.id);
}
told.timedOut = [late.status, late.error?.message ?? null];
told.tokens = {};
for (const [name, filter] of Object.entries({
  status: { status: ["COMPLETED", "TIMED_OUT"] },
  tags: { tags: ["late", "none"] },
  key: { idempotencyKey: "k" },
  period: { period: "1m", status: "WAITING" },
}))
  told.tokens[name] = (await wait.listTokens(filter)).data.length;
told.tooManyTags = await status(() => wait.createToken({ tags: [..."abcdefghijk"] }));
told.unknownToken = [await status(() => wait.retrieveToken("waitpoint_x")), await status(() => wait.completeToken("waitpoint_x", 1))];

console.log(JSON.stringify(told));
