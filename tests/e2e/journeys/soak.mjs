// Minutes of 200 hints a second: what the pages hold on to does not grow.
import assert from "node:assert/strict";

const WARM_UP_S = 20;

export default async function journey({ page, context, facts, signIn }) {
  await signIn(page);
  const other = await context.newPage();
  await other.goto("/agents");
  await other.getByRole("table").waitFor();
  let streams = 0;
  context.on("request", (request) => {
    if (new URL(request.url()).pathname === "/api/v1/events") streams += 1;
  });
  const reads = { agents: 0 };
  other.on("request", (request) => {
    if (new URL(request.url()).pathname === "/api/v1/agents") reads.agents += 1;
  });
  // As the tab that reads the stream tells the others.
  await page.evaluate((ids) => {
    const channel = new BroadcastChannel("tg-live");
    let place = 0;
    setInterval(() => {
      const hints = Array.from({ length: 10 }, () => {
        place += 1;
        return { kind: "agent", id: ids[place % ids.length], fleet: null };
      });
      hints.push({ kind: "heartbeats", id: null, fleet: null, count: 10 });
      channel.postMessage({ is: "hints", hints, lastEventId: "" });
    }, 50);
  }, facts.agentIds);

  const session = await context.newCDPSession(other);
  const heap = async () => {
    await session.send("HeapProfiler.collectGarbage");
    const { usedSize } = await session.send("Runtime.getHeapUsage");
    return usedSize;
  };
  await other.waitForTimeout(WARM_UP_S * 1000);
  reads.agents = 0;
  const samples = [await heap()];
  for (let step = 0; step < 6; step += 1) {
    await other.waitForTimeout((facts.seconds * 1000) / 6);
    samples.push(await heap());
  }
  assert.ok(await other.getByRole("table").isVisible());
  return { samples, readsPerSecond: reads.agents / facts.seconds, streamsOpened: streams };
}
