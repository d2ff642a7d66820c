// A page as a front end has it: it asks for an order, follows it live, and approves it. What it may do stands in the fragment of
// its address: {baseURL, order, once: tokens to trigger with, orders: one to read by tag, approve, batch: {id, publicAccessToken}}.
import {
  TriggerAuthContext,
  useInputStreamSend,
  useRealtimeBatch,
  useRealtimeRun,
  useRealtimeRunsWithTag,
  useRealtimeRunWithStreams,
  useRealtimeStream,
  useRealtimeTaskTrigger,
  useRun,
  useTaskTrigger,
  useWaitToken,
} from "@trigger.dev/react-hooks";
import { useState } from "react";
import { createRoot } from "react-dom/client";

const given = JSON.parse(decodeURIComponent(location.hash.slice(1)));

const Line = ({ of, children, error }) => (
  <tr id={of}>
    <th>{of}</th>
    <td>{error ? `${error.name} ${error.status ?? ""}: ${error.message}` : children}</td>
  </tr>
);

function Order() {
  const { submit, handle, error } = useTaskTrigger("order", { accessToken: given.order });
  const lamp = () => submit({ item: "lamp", when: new Date(0) }, { tags: ["shop"] });
  return (
    <>
      <button onClick={lamp}>Order a lamp</button>
      <table>
        <tbody>
          <Line of="trigger" error={error}>{handle?.id}</Line>
          {handle && <Followed id={handle.id} accessToken={handle.publicAccessToken} />}
        </tbody>
      </table>
    </>
  );
}

function Followed({ id, accessToken }) {
  const { run, error } = useRealtimeRun(id, { accessToken });
  const [seen, setSeen] = useState([]);
  if (run && seen.at(-1) !== run.status) setSeen([...seen, run.status]);
  const polled = useRun(id, { accessToken, refreshInterval: 200 });
  return (
    <>
      <Line of="statuses" error={error}>{seen.join(" → ")}</Line>
      <Line of="payload">{JSON.stringify(run?.payload)}</Line>
      <Line of="metadata">{JSON.stringify(run?.metadata)}</Line>
      <Line of="output">{JSON.stringify(run?.output)}</Line>
      <Line of="polled" error={polled.error}>{polled.run?.status}</Line>
      <Streamed id={id} accessToken={accessToken} />
      {run?.isCompleted && <Afterwards id={id} accessToken={accessToken} />}
      <Answer id={id} accessToken={accessToken} />
    </>
  );
}

function Streamed({ id, accessToken }) {
  const { parts, error } = useRealtimeStream(id, "tokens", { accessToken });
  return <Line of="stream" error={error}>{JSON.stringify(parts)}</Line>;
}

// Not before the end: a browser has six connections to a server at once, and each live thing holds one.
function Afterwards({ id, accessToken }) {
  const { run, streams, error } = useRealtimeRunWithStreams(id, { accessToken });
  return <Line of="afterwards" error={error}>{run?.status} {JSON.stringify(streams)}</Line>;
}

function Answer({ id, accessToken }) {
  const { send, isReady, error } = useInputStreamSend("remarks", id, { accessToken });
  return <Line of="remark" error={error}><button disabled={!isReady} onClick={() => send("in blue, please")}>Remark</button></Line>;
}

function Approval() {
  const { complete, isCompleted, error } = useWaitToken(given.approve.id, { accessToken: given.approve.publicAccessToken });
  return (
    <table>
      <tbody>
        <Line of="approval" error={error}>
          {isCompleted ? "approved" : <button onClick={() => complete({ approved: true, by: "Ada" })}>Approve</button>}
        </Line>
      </tbody>
    </table>
  );
}

function Once() {
  const { submit, run, error } = useRealtimeTaskTrigger("echo", { accessToken: given.once });
  return (
    <table>
      <tbody>
        <Line of="once" error={error}>
          <button onClick={() => submit("hello")}>Echo</button> {run?.status} {run?.output}
        </Line>
      </tbody>
    </table>
  );
}

const Rows = ({ of, runs, error }) => (
  <table>
    <tbody>
      <Line of={of} error={error}>{runs.map((run) => `${run.taskIdentifier} ${run.status}`).join(", ")}</Line>
    </tbody>
  </table>
);
const Tagged = () => <Rows of="tagged" {...useRealtimeRunsWithTag("shop", { accessToken: given.orders })} />;
const Batch = () => <Rows of="batch" {...useRealtimeBatch(given.batch.id, { accessToken: given.batch.publicAccessToken })} />;

createRoot(document.getElementById("page")).render(
  <TriggerAuthContext.Provider value={{ baseURL: given.baseURL }}>
    <h1>The shop</h1>
    {given.order && <Order />}
    {given.approve && <Approval />}
    {given.orders && <Tagged />}
    {given.batch && <Batch />}
    {given.once && <Once />}
  </TriggerAuthContext.Provider>,
);
