import { describe, expect, it } from "vitest";

import { commandTone, resultText, stateText, stepOf } from "@/pages/agent/commands";
import { parseDuration, showDuration } from "@/pages/deployments/durations";
import { type GateNumbers, readVerdict, rowsOf } from "@/pages/deployments/gates";
import { asSentence, headlineOf, noteOf, stageText } from "@/pages/deployments/headline";
import { consequencesOf, movesOf, whyNot } from "@/pages/deployments/moves";
import { around, readSelectorError } from "@/pages/deployments/selector";
import { stageStanding } from "@/pages/deployments/stages";
import {
  type MetricGate,
  newMetric,
  newStage,
  newStrategy,
  presetOf,
  problemsOf,
  stagesOf,
  toStrategy,
} from "@/pages/deployments/strategy";
import { fieldValue, growth, predecessorOf } from "@/pages/releases/diff";
import type { DeploymentDetail, Release } from "@/api/resources";

const NOW = Date.parse("2026-05-01T12:00:00Z");

function at<T>(list: readonly T[], place: number): T {
  const found = list[place];
  if (found === undefined) throw new Error(`there is nothing at ${place}`);
  return found;
}

function tally(values: Partial<GateNumbers["own"]> = {}): GateNumbers["own"] {
  return { good: 0, bad: 0, reported: 0, at_work: 0, reachable: 0, offline: 0, due: 10, ...values };
}

function gate(values: Partial<GateNumbers> = {}): GateNumbers {
  return {
    verdict: "waiting",
    reason: "3 agents are on the way",
    own: tally(),
    so_far: tally(),
    min_reported: 5,
    failure: null,
    max_failure: 0.05,
    success: null,
    min_success: 0.9,
    soak_s: 300,
    held_since: null,
    passes_at: null,
    metrics: [],
    ...values,
  };
}

function stage(number: number, values: Partial<DeploymentDetail["stages"][number]> = {}) {
  return {
    stage: number,
    percent: number === 0 ? 10 : 100,
    agents: number === 0 ? 3 : 27,
    due: number === 0 ? 3 : 27,
    counts: {},
    gate: null,
    on_pass: "advance" as const,
    verdict: null,
    held_since: null,
    started_at: number === 0 ? "2026-05-01T11:00:00Z" : null,
    finished_at: null,
    ...values,
  };
}

function deployment(values: Partial<DeploymentDetail> = {}): DeploymentDetail {
  return {
    id: "d",
    release: { id: "r", name: "detector", version: "2.0.0", package_digest: "00" },
    fleets: ["cameras"],
    selector: "",
    strategy: { on_failure: "pause", stages: [{ percent: 10 }, { percent: 100 }] },
    state: "running",
    state_reason: "",
    stage: 0,
    counts: { succeeded: 2, downloading: 1, pending: 27 },
    revision: 1,
    created_at: "2026-05-01T11:00:00Z",
    created_by: "u",
    started_at: "2026-05-01T11:00:00Z",
    finished_at: null,
    start_at: null,
    approval_id: null,
    stages: [stage(0, { counts: { succeeded: 2, downloading: 1 } }), stage(1, { counts: { pending: 27 } })],
    gate: gate(),
    waits_for: "1 agents are on the way",
    window_opens_at: null,
    rate_per_minute: null,
    rollback_counts: {},
    actions: [],
    ...values,
  };
}

describe("lengths of time", () => {
  it.each([
    ["5m", 300],
    ["5 min", 300],
    ["1h 30m", 5400],
    ["1h30m", 5400],
    ["90", 90],
    ["1.5h", 5400],
    ["2d", 172_800],
    ["0s", 0],
  ])("reads %s", (text, seconds) => expect(parseDuration(text)).toBe(seconds));

  it.each(["", "soon", "5x", "m5", "-5m", "5m later", "0.3s"])("refuses “%s”", (text) => {
    expect(parseDuration(text)).toBeUndefined();
  });

  it("shows what it reads", () => {
    for (const seconds of [0, 1, 59, 300, 5400, 86_400, 90_061]) {
      expect(parseDuration(showDuration(seconds))).toBe(seconds);
    }
    expect(showDuration(5400)).toBe("1h 30m");
  });
});

describe("a strategy's form", () => {
  it("is a canary of a tenth that holds for five minutes, as the api has it", () => {
    const strategy = toStrategy(newStrategy());
    expect(strategy.stages).toEqual([
      {
        percent: 10,
        gate: { min_reported: 5, max_failure: 0.05, min_success: 0.9, soak_s: 300, metrics: [] },
        on_pass: "advance",
      },
      { percent: 100, gate: null, on_pass: "advance" },
    ]);
    expect(strategy.timeouts).toEqual({ in_progress_s: 1800, begin_s: 1800, retries: 3 });
    expect([strategy.ramp, strategy.window, strategy.stratify]).toEqual([null, null, null]);
    expect(problemsOf(newStrategy())).toEqual(new Map());
  });

  it("knows its presets, and what is none any more", () => {
    expect(presetOf(newStrategy().stages)).toBe("canary");
    for (const name of ["careful", "at-once"] as const) {
      expect(presetOf(stagesOf(name))).toBe(name);
      expect(problemsOf({ ...newStrategy(), stages: stagesOf(name) })).toEqual(new Map());
    }
    const changed = stagesOf("canary");
    at(changed, 0).maxFailure = 7;
    expect(presetOf(changed)).toBeUndefined();
  });

  it("says which percentage is wrong", () => {
    const error = (...percents: (number | "")[]): string[] => {
      const stages = percents.map((percent) => newStage(percent));
      return [...problemsOf({ ...newStrategy(), stages }).entries()].map((one) => one.join(": "));
    };
    expect(error(0, 100)).toEqual(["stages.0.percent: From 1 to 100."]);
    expect(error(10, 101)).toEqual(["stages.1.percent: From 1 to 100."]);
    expect(error(50, 20, 100)).toEqual(["stages.1.percent: More than the 50 % before it."]);
    expect(error(10, 50)).toEqual(["stages.1.percent: The last stage is everybody: 100."]);
    expect(error("", 100)[0]).toContain("stages.0.percent");
    expect(error(12.5, 100)[0]).toContain("A whole number");
  });

  it("asks a metric for time, a name, and a rest to compare with", () => {
    const form = newStrategy();
    const [first, last] = [at(form.stages, 0), at(form.stages, 1)];
    first.metrics.push({ ...newMetric(), metric: "metrics." });
    first.soak = "0s";
    last.hasGate = true;
    last.metrics.push(newMetric());
    expect([...problemsOf(form).keys()]).toEqual([
      "stages.0.soak",
      "stages.0.metrics.0.metric",
      "stages.1.metrics",
    ]);
  });

  it("hands on limits of metrics as shares, or in the metric's unit", () => {
    const form = newStrategy();
    at(form.stages, 0).metrics = [
      { ...newMetric(), most: 20 },
      { ...newMetric(), metric: "trust", worse: "lower", limit: "difference", most: 5 },
    ];
    expect(at(toStrategy(form).stages, 0).gate?.metrics).toEqual([
      { metric: "cpu_percent", worse: "higher", max_change: 0.2, max_difference: null, min_agents: 1 },
      { metric: "trust", worse: "lower", max_change: null, max_difference: 5, min_agents: 1 },
    ]);
  });

  it("checks pace and window only where they are wanted", () => {
    const form = { ...newStrategy(), initialPerMinute: 50, maxPerMinute: 10, windowLength: "2d" };
    expect(problemsOf(form).size).toBe(0);
    const wanted = problemsOf({ ...form, hasRamp: true, hasWindow: true });
    expect([...wanted.keys()]).toEqual(["maxPerMinute", "windowLength"]);
  });
});

describe("a selector that cannot be read", () => {
  it("is shown where it goes wrong", () => {
    const told = readSelectorError("expected a tag's value, found ')' (at character 8)");
    expect(told).toEqual({ message: "expected a tag's value, found ')'", position: 8 });
    expect(around("gpu in (),a=b", 8)).toEqual({ before: "gpu in (", at: ")", after: ",a=b" });
    expect(around("gpu in (", 8)).toEqual({ before: "gpu in (", at: " ", after: "" });
    expect(around("x".repeat(60), 40).before).toHaveLength(25);
    expect(readSelectorError("something else").position).toBeUndefined();
  });
});

const METRIC = { metric: "cpu_percent", worse: "higher" as const, max_change: 0.2, max_difference: null, min_agents: 1 };
const WORSE = { ...METRIC, verdict: "worse" as const, reason: "", stage_mean: 70, stage_sent: 3, stage_asked: 3, rest_mean: 50, rest_sent: 27, rest_asked: 27, change: 0.4, difference: 20 };

describe("a gate's rows", () => {
  const row = (numbers: GateNumbers, key: string, metrics: MetricGate[] = [METRIC]) =>
    rowsOf(numbers, metrics, NOW).find((one) => one.key === key);

  it("wait as long as nobody has reported", () => {
    const rows = rowsOf(gate({ own: tally({ at_work: 3 }) }), [METRIC], NOW);
    expect(rows.map(({ standing }) => standing)).toEqual(Array(6).fill("waits"));
  });

  it("are broken by too many failures only once enough have reported", () => {
    const few = tally({ good: 3, bad: 1, reported: 4, due: 10 });
    expect(row(gate({ own: few }), "failure")?.standing).toBe("ok");
    const many = tally({ good: 3, bad: 2, reported: 5, due: 10 });
    expect(row(gate({ own: many }), "failure")).toMatchObject({
      standing: "broken",
      value: "40 %",
      limit: "at most 5 %",
      note: "2 of 5",
    });
    // A fleet of one has nobody else to wait for.
    expect(row(gate({ own: tally({ bad: 1, reported: 1, due: 1 }) }), "failure")?.standing).toBe("broken");
  });

  it("count what fails in earlier stages, too", () => {
    const so_far = tally({ good: 8, bad: 2, reported: 10, due: 20 });
    expect(row(gate({ so_far }), "so-far")).toMatchObject({ value: "20 %", standing: "broken" });
    expect(row(gate(), "so-far")).toBeUndefined();
  });

  it("show how much of the soak is over", () => {
    const own = tally({ good: 10, reported: 10 });
    const held = gate({ own, verdict: "holding", held_since: "2026-05-01T11:59:00Z" });
    expect(row(held, "soak")).toMatchObject({ value: "1 min", share: 0.2, standing: "waits" });
    expect(row(gate({ own, verdict: "passed" }), "soak")?.standing).toBe("ok");
    expect(row(gate(), "soak")?.note).toContain("begins when");
  });

  it("set a metric against the rest of the fleet", () => {
    expect(row(gate({ metrics: [WORSE] }), "metric-cpu_percent")).toMatchObject({
      standing: "broken",
      value: "70 %",
      note: "against 50 % in the rest: +40 %",
      limit: "at most 20 % higher than in the rest",
    });
    expect(row(gate(), "metric-cpu_percent")).toMatchObject({ value: "–", standing: "waits" });
    const lower = { ...WORSE, metric: "trust", worse: "lower" as const, max_change: null, max_difference: 5, stage_mean: 80, rest_mean: 90, change: 0.11, difference: 10 };
    expect(row(gate({ metrics: [lower] }), "metric-trust", [{ ...METRIC, ...lower }])?.note).toContain("-10");
  });

  it("are the same of a report that was kept", () => {
    const kept = readVerdict({
      verdict: "failed",
      reason: "2 of 5 agents (40.0%) failed, 5.0% may",
      gate: { min_reported: 5, max_failure: 0.05, min_success: 0.9, soak_s: 300, metrics: [] },
      own: { states: { succeeded: 3, failed: 1, lost: 1, pending: 2, downloading: 1 }, reachable: 1, due: 8 },
      so_far: { states: { succeeded: 3, failed: 1, lost: 1 }, reachable: 0, due: 8 },
      min_reported: 5,
      failure: 0.4,
      success: 0.6,
      held_since: null,
      passes_at: null,
      metrics: [{ gate: METRIC, reading: null, verdict: "inconclusive", reason: "was not read" }],
    });
    expect(kept).toMatchObject({
      max_failure: 0.05,
      own: { good: 3, bad: 2, reported: 5, at_work: 1, reachable: 1, offline: 1 },
    });
    expect(kept?.metrics[0]).toMatchObject({ metric: "cpu_percent", stage_mean: null });
    expect(readVerdict(null)).toBeUndefined();
  });
});

describe("the one sentence on top", () => {
  it("says what a running deployment waits for", () => {
    expect(headlineOf(deployment(), NOW).text).toBe("Stage 1 of 2: 1 agent is on the way.");
    const holds = gate({ verdict: "holding", passes_at: "2026-05-01T12:03:00Z" });
    expect(headlineOf(deployment({ gate: holds }), NOW).text).toBe(
      "Stage 1 of 2: everything holds; if it stays so, the next stage begins in 3 min.",
    );
    const worse = { ...holds, metrics: [WORSE] };
    expect(headlineOf(deployment({ gate: worse }), NOW).text).toBe(
      "Stage 1 of 2: CPU is beyond the limit; if it stays so, it pauses in 3 min.",
    );
  });

  it("says why it stopped, and how it ended", () => {
    const reason = "stage 1: 2 of 5 agents (40.0%) failed, 5.0% may";
    const paused = deployment({ state: "paused", state_reason: reason });
    expect(headlineOf(paused, NOW)).toEqual({
      tone: "warn",
      text: "Stage 1: 2 of 5 agents (40 %) failed; at most 5 % may.",
    });
    const done = deployment({ state: "completed", counts: { succeeded: 30 } });
    expect(headlineOf(done, NOW).text).toBe("All 30 agents run it.");
    const back = deployment({ state: "rolling_back", state_reason: "too slow", rollback_counts: { done: 8, waiting: 4 } });
    expect(headlineOf(back, NOW).text).toBe("8 of 12 agents are back. Too slow.");
  });

  it("turns a program's words into a person's", () => {
    expect(asSentence("")).toBe("");
    expect(asSentence("the window opens at 2026-05-01T22:00:00+00:00; 1 agents are offline")).toMatch(
      /^The window opens at 1 May 2026, .*; 1 agent is offline\.$/,
    );
  });

  it("has a short form for lists", () => {
    expect(noteOf(deployment())).toBe("");
    expect(noteOf(deployment({ state: "aborted", state_reason: "wrong fleet" }))).toBe("Wrong fleet.");
    expect(stageText(deployment())).toBe("stage 1 of 2 · 10 %");
    expect(stageText(deployment({ strategy: { stages: [{ percent: 100 }] } }))).toBe("");
  });
});

describe("moves", () => {
  it("are offered where they make sense", () => {
    expect(movesOf("draft")).toEqual(["start", "abort"]);
    expect(movesOf("running")).toContain("pause");
    expect(movesOf("paused")).toContain("resume");
    expect(movesOf("completed")).toEqual(["rollback"]);
    expect(movesOf("rolled_back")).toEqual([]);
  });

  it("say why not", () => {
    expect(whyNot("pause", deployment())).toBe("");
    expect(whyNot("retry-failed", deployment())).toBe("No agent has failed, timed out or been lost.");
    expect(whyNot("retry-failed", deployment({ counts: { lost: 1 } }))).toBe("");
    expect(whyNot("advance", deployment({ stage: 1 }))).toBe("This is the last stage.");
    const told = [{ name: "abort", why_not: "a deployment that is draft cannot become aborted" }];
    expect(whyNot("abort", deployment({ state: "draft", actions: told }))).toBe(
      "A deployment that is draft cannot become aborted.",
    );
  });

  it("spell out what a rollback gives back to whom", () => {
    const previous = [
      { package_digest: "aa", name: "detector", version: "1.2.0", agents: 12 },
      { package_digest: "bb", name: "other", version: "3.0.0", agents: 1 },
      { package_digest: null, name: null, version: null, agents: 1 },
    ];
    expect(consequencesOf("rollback", deployment(), previous).slice(0, 4)).toEqual([
      "12 agents will go back to 1.2.0.",
      "1 agent will go back to other 3.0.0.",
      "1 agent had nothing before, and keeps what it runs.",
      "27 agents that wait get nothing.",
    ]);
  });

  it("warn that a gate which still fails stops it again at once", () => {
    const failed = gate({ verdict: "failed", reason: "2 of 5 agents (40.0%) failed, 5.0% may" });
    expect(consequencesOf("resume", deployment({ state: "paused", gate: failed }))[0]).toBe(
      "The gate still says: 2 of 5 agents (40 %) failed; at most 5 % may. Unless that changes, it pauses again at once.",
    );
  });

  it("count whom advancing, pausing and aborting concern", () => {
    expect(consequencesOf("advance", deployment())[0]).toBe(
      "Stage 2 begins now: 27 more agents get the release.",
    );
    expect(consequencesOf("pause", deployment())).toContain("1 agent on the way goes on.");
    expect(consequencesOf("abort", deployment())).toContain(
      "2 agents that run it go on running it. To take it back, roll back instead.",
    );
    expect(consequencesOf("abort", deployment({ state: "draft" }))).toEqual([
      "It ends for good.",
      "Nobody has been told of it.",
    ]);
  });
});

describe("a stage", () => {
  it("is told by a word", () => {
    const label = (one: DeploymentDetail, place: number): string =>
      stageStanding(one, at(one.stages, place)).label;
    expect([label(deployment(), 0), label(deployment(), 1)]).toEqual(["Under way", "To come"]);
    expect(label(deployment({ gate: gate({ verdict: "holding" }) }), 0)).toBe("Holds");
    const stopped = deployment({ state: "paused", stages: [stage(0, { verdict: { verdict: "failed" } })] });
    expect(label(stopped, 0)).toBe("Failed");
    const second = deployment({
      stage: 1,
      stages: [stage(0, { verdict: { verdict: "passed" } }), stage(1, { started_at: "2026-05-01T11:30:00Z" })],
    });
    expect([label(second, 0), label(second, 1)]).toEqual(["Passed", "Under way"]);
    expect(label(deployment({ state: "rolled_back" }), 1)).toBe("Never begun");
  });
});

describe("a diff of releases", () => {
  const release = (id: string, name: string, created_at: string): Release => ({
    id,
    name,
    version: "1",
    package_digest: "00",
    notes: "",
    created_at,
    created_by: "u",
    withdrawn_at: null,
  });

  it("is with the one of its name before it", () => {
    const all = [
      release("4", "a", "2026-05-04T00:00:00Z"),
      release("3", "a", "2026-05-03T00:00:00Z"),
      release("2", "b", "2026-05-02T00:00:00Z"),
      release("1", "a", "2026-05-01T00:00:00Z"),
    ];
    expect(predecessorOf(at(all, 1), all)?.id).toBe("1");
    expect(predecessorOf(at(all, 2), all)?.id).toBe("1");
    expect(predecessorOf(at(all, 3), all)).toBeUndefined();
  });

  it("shows values as people read them", () => {
    expect(fieldValue("not_after", null)).toBe("–");
    expect(fieldValue("target.fleets", [])).toBe("any");
    expect(fieldValue("payload.size", 2048)).toBe("2.0 KiB");
    expect(fieldValue("policy.x", { a: 1 })).toBe('{"a":1}');
    expect(growth({ before_bytes: 1024, after_bytes: 3072 })).toBe("+2.0 KiB");
    expect(growth({ before_bytes: null, after_bytes: 1 })).toBe("");
  });
});

describe("a command to an agent", () => {
  it("goes from queued to done, or ends on the way", () => {
    const step = (state: string, sent_at: string | null = null): number => stepOf({ state, sent_at });
    expect(["queued", "sent", "acknowledged", "done"].map((state) => step(state))).toEqual([1, 2, 3, 4]);
    expect([step("expired"), step("expired", "2026-05-01T12:00:00Z"), step("refused")]).toEqual([1, 2, 3]);
    expect([commandTone("done"), commandTone("failed"), commandTone("expired")]).toEqual(["ok", "bad", "warn"]);
    expect(stateText("queued")).toContain("next heard of");
  });

  it("shows lines as lines, a refusal as its reason, and the rest as JSON", () => {
    const text = (kind: string, result: Record<string, unknown> | null): string => resultText({ kind, result });
    expect(text("collect-logs", { lines: ["a", "b"] })).toBe("a\nb");
    expect(text("restart", { reason: "not now" })).toBe("not now");
    expect(text("diagnostics", { disk: 1 })).toBe('{\n  "disk": 1\n}');
    expect(text("restart", null)).toBe("");
  });
});
