import { QueryClient, QueryObserver } from "@tanstack/vue-query";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { backoffMs } from "@/live/backoff";
import { ratesOf } from "@/live/heartbeats";
import { type Hint, parseHint, relevanceOf } from "@/live/hint";
import { Refresher } from "@/live/refresher";
import { EventReader } from "@/live/sse";

describe("a stream of events", () => {
  it("is read whatever the pieces that it arrives in", () => {
    const text = 'id: 7\nevent: agent\ndata: {"a":1}\n\n: still here\n\nid: 8\r\ndata: x\r\ndata: y\r\n\r\n';
    const expected = [
      { id: "7", type: "agent", data: '{"a":1}' },
      { id: "8", type: "message", data: "x\ny" },
    ];
    for (const size of [1, 2, 3, 7, 1000]) {
      const reader = new EventReader();
      const events = [];
      for (let at = 0; at < text.length; at += size) events.push(...reader.read(text.slice(at, at + size)));
      expect(events).toEqual(expected);
    }
  });

  it("keeps the id of the last event for those that bring none", () => {
    const reader = new EventReader("41");
    expect(reader.read("data: a\n\nid: 42\ndata: b\n\ndata: c\n\n").map(({ id }) => id)).toEqual([
      "41",
      "42",
      "42",
    ]);
  });

  it("can be gone on with from where a comment said", () => {
    const reader = new EventReader();
    expect(reader.read(": keep-alive\nid: 99\n\n")).toEqual([]);
    expect(reader.lastEventId).toBe("99");
  });

  it("says nothing for an event that has not ended", () => {
    expect(new EventReader().read("event: agent\ndata: {}\n")).toEqual([]);
  });

  it("is given up when an event does not end", () => {
    expect(() => new EventReader().read(`data: ${"x".repeat(70_000)}`)).toThrow(RangeError);
  });
});

describe("a hint", () => {
  const hint: Hint = { kind: "agent", id: "a1", fleet: "f" };

  it("is read from its data, and its kind may stand in the event's type", () => {
    expect(parseHint("agent", '{"kind":"agent","id":"a1","fleet":"f"}')).toEqual(hint);
    expect(parseHint("ledger", "{}")).toEqual({ kind: "ledger", id: null, fleet: null });
  });

  it.each(["[1]", "null", "{", '{"kind":"weather"}'])("is nothing where it is %s", (data) => {
    expect(parseHint("message", data)).toBeUndefined();
  });

  it("concerns at once what shows its subject, later a list that does not", () => {
    const shows = (): Set<string> => new Set(["a1"]);
    const list = { kinds: ["agent"] as const, shows };
    expect(relevanceOf(list, hint, {})).toBe("now");
    expect(relevanceOf(list, { ...hint, id: "a2" }, {})).toBe("later");
    expect(relevanceOf({ kinds: ["agent"], id: "a2" }, hint, {})).toBe("never");
    expect(relevanceOf({ kinds: ["agent"], fleet: "g" }, hint, {})).toBe("never");
    expect(relevanceOf({ kinds: ["agent"], fleet: "g" }, { ...hint, fleet: null }, {})).toBe("now");
    expect(relevanceOf({ kinds: ["ledger"] }, hint, {})).toBe("never");
    expect(relevanceOf({ kinds: ["ledger"], later: ["agent"] }, hint, {})).toBe("later");
    expect(relevanceOf(list, { ...hint, id: null }, {})).toBe("now");
  });
});

describe("a refresher", () => {
  let client: QueryClient;
  let refresher: Refresher;
  const agents: Hint = { kind: "agent", id: "a1", fleet: null };
  let stops: (() => void)[] = [];

  function watchQuery(key: string, meta: object, queryFn: () => Promise<unknown>): void {
    const observer = new QueryObserver(client, { queryKey: [key], queryFn, meta, retry: false });
    stops.push(observer.subscribe(() => undefined));
  }

  beforeEach(() => {
    vi.useFakeTimers();
    client = new QueryClient();
    refresher = new Refresher(client, () => Date.now());
  });
  afterEach(() => {
    for (const stop of stops) stop();
    stops = [];
    refresher.stop();
    client.clear();
    vi.useRealTimers();
  });

  it("reads a query again at most twice a second, however many hints come", async () => {
    const read = vi.fn<() => Promise<number>>(async () => 1);
    watchQuery("agents", { live: { kinds: ["agent"] } }, read);
    await vi.advanceTimersByTimeAsync(10);
    read.mockClear();
    for (let ms = 0; ms < 2000; ms += 5) {
      refresher.take([agents]);
      await vi.advanceTimersByTimeAsync(5);
    }
    expect(read.mock.calls.length).toBeGreaterThanOrEqual(3);
    expect(read.mock.calls.length).toBeLessThanOrEqual(5);
  });

  it("reads once more what was hinted at while it was being read", async () => {
    let answers = 0;
    const read = vi.fn<() => Promise<unknown>>(
      () => new Promise((resolve) => setTimeout(() => resolve((answers += 1)), 100)),
    );
    watchQuery("agents", { live: { kinds: ["agent"] } }, read);
    await vi.advanceTimersByTimeAsync(200);
    read.mockClear();
    refresher.take([agents]);
    await vi.advanceTimersByTimeAsync(50);
    expect(read).toHaveBeenCalledTimes(1);
    refresher.take([agents]);
    await vi.advanceTimersByTimeAsync(2000);
    expect(read).toHaveBeenCalledTimes(2);
  });

  it("leaves alone what is not concerned, and what nobody looks at", async () => {
    const deployments = vi.fn<() => Promise<number>>(async () => 1);
    watchQuery("deployments", { live: { kinds: ["deployment"] } }, deployments);
    const unseen = vi.fn<() => Promise<number>>(async () => 1);
    await client.prefetchQuery({
      queryKey: ["unseen"],
      queryFn: unseen,
      meta: { live: { kinds: ["agent"] } },
    });
    await vi.advanceTimersByTimeAsync(10);
    deployments.mockClear();
    unseen.mockClear();
    refresher.take([agents]);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(deployments).not.toHaveBeenCalled();
    expect(unseen).not.toHaveBeenCalled();
  });

  it("waits before it reads a list for an agent that the list does not show", async () => {
    const read = vi.fn<() => Promise<number>>(async () => 1);
    watchQuery("agents", { live: { kinds: ["agent"], shows: () => new Set(["other"]) } }, read);
    await vi.advanceTimersByTimeAsync(10);
    read.mockClear();
    refresher.take([agents]);
    await vi.advanceTimersByTimeAsync(4000);
    expect(read).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(2000);
    expect(read).toHaveBeenCalledTimes(1);
  });

  it("survives a query that fails", async () => {
    const read = vi.fn<() => Promise<never>>(async () => {
      throw new Error("down");
    });
    watchQuery("agents", { live: { kinds: ["agent"] } }, read);
    await vi.advanceTimersByTimeAsync(10);
    refresher.take([agents]);
    await vi.advanceTimersByTimeAsync(2000);
    refresher.take([agents]);
    await vi.advanceTimersByTimeAsync(2000);
    expect(read).toHaveBeenCalledTimes(3);
  });
});

describe("heartbeats", () => {
  it("are counted in steps, and nothing is said of the time before the first", () => {
    const told = [1000, 2000, 3000, 4000, 5000, 6000].map((at) => ({ at, count: 10 }));
    expect(ratesOf(told, 6000, 2000, 3)).toEqual([undefined, 10, 10]);
    expect(ratesOf([], 6000, 2000, 1)).toEqual([undefined]);
  });
});

describe("the back-off", () => {
  it("rises to a ceiling, and is spread below it", () => {
    expect(backoffMs(0, () => 0.999)).toBeLessThan(1000);
    expect(backoffMs(50, () => 0.999)).toBeLessThan(16_000);
    expect(backoffMs(50, () => 0.999)).toBeGreaterThan(14_000);
    expect(backoffMs(50, () => 0)).toBeLessThan(500);
  });
});
