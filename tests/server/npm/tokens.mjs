// What a back end and a page do with keys and public tokens, through the official client. Prints what came of it as JSON.
// TRIGGER_API_URL and TRIGGER_SECRET_KEY are set as for any program; SCOPED_KEY is a key `tr_dev_sk_…`.
import { auth, configure, runs, tasks, wait } from "@trigger.dev/sdk";

// Of a refusal that is not to be tried again the first answer tells.
configure({ requestOptions: { retry: { maxAttempts: 1 } } });

const told = {};
const as = (accessToken, ask) => auth.withAuth({ accessToken, requestOptions: { retry: { maxAttempts: 1 } } }, ask);

async function status(ask) {
  try {
    await ask();
    return 200;
  } catch (error) {
    return error.status ?? error.cause?.status ?? String(error);
  }
}

// A back end with the secret key signs by itself.
const run = await tasks.trigger("echo", { n: 1 });
const reader = await auth.createPublicToken({ scopes: { read: { runs: [run.id] } }, expirationTime: "1h" });
told.read = (await as(reader, () => runs.retrieve(run.id))).payload;
told.readWithTheReplysToken = (await as(run.publicAccessToken, () => runs.retrieve(run.id))).id === run.id;
const other = await tasks.trigger("echo", { n: 2 });
told.readAnother = await status(() => as(reader, () => runs.retrieve(other.id)));
told.triggerWithIt = await status(() => as(reader, () => tasks.trigger("echo", { n: 3 })));
const short = await auth.createPublicToken({ scopes: { read: { runs: true } }, expirationTime: "1s" });
await new Promise((done) => setTimeout(done, 1500));
told.expired = await status(() => as(short, () => runs.retrieve(run.id)));

// A page triggers once, and follows its run.
const once = await auth.createTriggerPublicToken("echo");
const fromPage = await as(once, () => tasks.trigger("echo", { from: "a page" }));
told.triggered = (await as(fromPage.publicAccessToken, () => runs.retrieve(fromPage.id))).payload;
told.triggeredTwice = await status(() => as(once, () => tasks.trigger("echo", {})));
const otherTask = await auth.createTriggerPublicToken("other");
told.triggeredAnother = await status(() => as(otherTask, () => tasks.trigger("echo", {})));
const often = await auth.createTriggerPublicToken("echo", { multipleUse: true });
told.triggeredOften = [];
for (let n = 0; n < 2; n++) told.triggeredOften.push(await status(() => as(often, () => tasks.trigger("echo", { n }))));

// A page sends a batch.
const batching = await auth.createBatchTriggerPublicToken("echo");
const batch = await as(batching, () => tasks.batchTrigger("echo", [{ payload: 1 }, { payload: 2 }]));
told.batch = batch.runCount;
told.batchTwice = await status(() => as(batching, () => tasks.batchTrigger("echo", [{ payload: 1 }])));

// Somebody completes a wait token with what came with it.
const [first, second] = [await wait.createToken({ timeout: "1h" }), await wait.createToken({ timeout: "1h" })];
told.completeAnother = await status(() => as(first.publicAccessToken, () => wait.completeToken(second.id, 1)));
told.complete = await as(first.publicAccessToken, () => wait.completeToken(first.id, { approved: true }));
told.completed = (await wait.retrieveToken(first.id)).output;

// With a scoped key the server signs.
await as(process.env.SCOPED_KEY, async () => {
  const theirs = await tasks.trigger("echo", { by: "a scoped key" });
  told.scoped = (await as(theirs.publicAccessToken, () => runs.retrieve(theirs.id))).payload;
  const minted = await auth.createPublicToken({ scopes: { read: { runs: [theirs.id] } } });
  told.minted = (await as(minted, () => runs.retrieve(theirs.id))).id === theirs.id;
  told.mintedTooMuch = await status(() => auth.createPublicToken({ scopes: { write: { runs: true } } }));
  told.mintedToTrigger = await status(async () => {
    const token = await auth.createTriggerPublicToken("echo");
    await as(token, () => tasks.trigger("echo", {}));
  });
});

console.log(JSON.stringify(told));
