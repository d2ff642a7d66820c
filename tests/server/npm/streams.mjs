// Streams, input and metadata of a run, through the official client. Prints what came of it as JSON. Between it and the server stands
// a proxy of its own that cuts off readers again and again, as networks do. The worker appends 40 parts to the stream "numbers" when
// it is sent "go", reads "more" from outside in between, and finishes when it is sent "stop".
import http from "node:http";
import { auth, configure, runs, streams, tasks } from "@trigger.dev/sdk";

const target = new URL(process.env.TRIGGER_API_URL);
let cuts = 0;
let beginReading;
const isReading = new Promise((resolve) => (beginReading = resolve));
const proxy = http.createServer((asked, answer) => {
  const { method, headers, url: path } = asked;
  const reads = method === "GET" && path.startsWith("/realtime/v1/streams/");
  const onward = http.request({ host: target.hostname, port: target.port, method, path, headers }, (response) => {
    answer.writeHead(response.statusCode, response.headers);
    if (reads) beginReading();
    response.on("data", (data) => {
      answer.write(data);
      if (reads && cuts < 6 && data.includes("event: batch")) {
        cuts++;
        setTimeout(() => answer.destroy(), 5); // in the middle, with no end
        onward.destroy();
      }
    });
    response.on("end", () => answer.end());
    response.on("error", () => {});
  });
  onward.on("error", () => answer.destroy());
  answer.on("close", () => onward.destroy());
  asked.pipe(onward);
});
await new Promise((ready) => proxy.listen(0, "127.0.0.1", ready));
configure({ baseURL: `http://127.0.0.1:${proxy.address().port}`, accessToken: process.env.TRIGGER_SECRET_KEY });

const told = {};
const numbers = streams.define({ id: "numbers" });
const control = streams.input({ id: "control" });

async function all(parts) {
  const seen = [];
  for await (const part of parts) seen.push(part);
  return seen;
}

const run = await tasks.trigger("count", 40);
const reading = all(await streams.read(run.id, "numbers", { timeoutInSeconds: 300 }));
await isReading;
await control.send(run.id, "go");
const appended = await fetch(`${target.origin}/realtime/v1/streams/${run.id}/self/numbers/append`, {
  method: "POST",
  headers: { authorization: `Bearer ${process.env.TRIGGER_SECRET_KEY}`, "content-type": "application/json" },
  body: "from outside",
});
told.appended = await appended.json();
await control.send(run.id, "stop");
const seen = await reading;
told.numbers = seen.filter((part) => typeof part === "number");
told.others = seen.filter((part) => typeof part !== "number");
told.cuts = cuts;
const { status, metadata, tags } = await runs.retrieve(run.id);
Object.assign(told, { status, metadata, tags });

// A page, with the token that came with the trigger.
await auth.withAuth({ accessToken: run.publicAccessToken }, async () => {
  told.fromThirty = (await all(await numbers.read(run.id, { startIndex: 30 }))).length;
  told.sentTooLate = await control.send(run.id, "again").catch((error) => error.status);
});
proxy.close();
console.log(JSON.stringify(told));
process.exit(0);
