// Seconds or minutes of 200 hints a second over the real stream: what the pages hold on to does not grow.
import assert from "node:assert/strict";

const SAMPLES = 6;

export default async function journey({ page, context, facts, signIn }) {
  const streams = [];
  context.on("request", (request) => {
    if (new URL(request.url()).pathname === "/api/v1/events") streams.push(request.url());
  });
  await signIn(page); // the overview: this tab reads the stream, and tells the other
  await page.getByTestId("live").and(page.locator("[data-state=live]")).waitFor();
  const other = await context.newPage();
  await other.goto("/agents");
  await other.getByRole("table").waitFor();
  const reads = { agents: 0 };
  other.on("request", (request) => {
    if (new URL(request.url()).pathname === "/api/v1/agents") reads.agents += 1;
  });
  await other.evaluate(() => {
    globalThis.told = { hints: 0, gaps: 0, states: [] };
    new BroadcastChannel("tg-live").addEventListener("message", ({ data }) => {
      if (data.is === "hints") globalThis.told.hints += data.hints.length;
      else if (data.is === "gap") globalThis.told.gaps += 1;
      else if (data.is === "state") globalThis.told.states.push(data.state);
    });
  });
  const heapOf = async (tab) => {
    const session = await context.newCDPSession(tab);
    return async () => {
      await session.send("HeapProfiler.collectGarbage");
      return (await session.send("Runtime.getHeapUsage")).usedSize;
    };
  };
  const heaps = { leading: await heapOf(page), following: await heapOf(other) };
  const samples = { leading: [], following: [] };
  const sample = async () => {
    for (const tab of ["leading", "following"]) samples[tab].push(await heaps[tab]());
  };

  await other.waitForTimeout(facts.warmUpSeconds * 1000);
  await other.evaluate(() => (globalThis.told.hints = 0));
  reads.agents = 0;
  const began = Date.now();
  await sample();
  for (let step = 0; step < SAMPLES; step += 1) {
    await other.waitForTimeout((facts.seconds * 1000) / SAMPLES);
    await sample();
  }
  const seconds = (Date.now() - began) / 1000;
  const told = await other.evaluate(() => globalThis.told);
  assert.ok(await other.getByRole("table").isVisible());
  return {
    samples,
    seconds,
    hintsPerSecond: told.hints / seconds,
    readsPerSecond: reads.agents / seconds,
    gaps: told.gaps,
    states: told.states,
    streamsOpened: streams.length,
  };
}
