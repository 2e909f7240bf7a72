import { describeMetric, metricLabel, METRICS, percentText, type MetricGate } from "./strategy";
import type { Schemas } from "@/api/client";
import type { Counts } from "@/text/deployments";
import { countOf, formatDuration, formatNumber } from "@/text/format";

export type GateNumbers = Schemas["GateView"];
type MetricNumbers = Schemas["MetricView"];
type Tally = Schemas["TallyView"];

/** How one condition of a gate stands. `waits`: nothing can be said yet. */
export type Standing = "ok" | "waits" | "broken";

export interface GateRow {
  key: string;
  label: string;
  standing: Standing;
  /** What is measured, and what it may be. */
  value: string;
  limit: string;
  note: string;
  /** From 0 to 1: how far the bar goes, and where its threshold stands. */
  share: number | undefined;
  threshold: number | undefined;
}

const GOOD = ["succeeded"];
const BAD = ["failed", "timed_out", "lost"];
const AT_WORK = ["notified", "downloading", "verifying", "activating"];

/** What a report says that was kept when its gate decided: the same figures as a live one. */
export function readVerdict(kept: Record<string, unknown> | null): GateNumbers | undefined {
  if (kept === null || typeof kept.gate !== "object" || kept.gate === null) return undefined;
  const gate = kept.gate as Schemas["GateView"];
  return {
    ...(kept as unknown as GateNumbers),
    own: readTally(kept.own),
    so_far: readTally(kept.so_far),
    max_failure: gate.max_failure,
    min_success: gate.min_success,
    soak_s: gate.soak_s,
    metrics: ((kept.metrics as unknown[] | undefined) ?? []).map(readMetric),
  };
}

function readTally(kept: unknown): Tally {
  const { states, reachable, due } = kept as { states: Counts; reachable: number; due: number };
  const sum = (names: string[]): number =>
    names.reduce((total, name) => total + (states[name as keyof Counts] ?? 0), 0);
  const [good, bad] = [sum(GOOD), sum(BAD)];
  return {
    good,
    bad,
    reported: good + bad,
    at_work: sum(AT_WORK),
    reachable,
    offline: (states.pending ?? 0) - reachable,
    due,
  };
}

function readMetric(kept: unknown): MetricNumbers {
  const one = kept as {
    gate: MetricGate;
    reading: Record<"stage" | "rest", { mean: number | null; sent: number; asked: number }> | null;
    verdict: MetricNumbers["verdict"];
    reason: string;
    difference: number | null;
    change: number | null;
  };
  return {
    ...one.gate,
    verdict: one.verdict,
    reason: one.reason,
    stage_mean: one.reading?.stage.mean ?? null,
    stage_sent: one.reading?.stage.sent ?? 0,
    stage_asked: one.reading?.stage.asked ?? 0,
    rest_mean: one.reading?.rest.mean ?? null,
    rest_sent: one.reading?.rest.sent ?? 0,
    rest_asked: one.reading?.rest.asked ?? 0,
    difference: one.difference,
    change: one.change,
  };
}

/** Every condition of a gate, in the order in which it looks at them. */
export function rowsOf(
  gate: GateNumbers,
  metrics: readonly MetricGate[],
  nowMs: number,
): GateRow[] {
  return [
    failureRow("failure", "Failed", gate.own, gate),
    ...(gate.so_far.reported > gate.own.reported
      ? [failureRow("so-far", "Failed so far, all stages", gate.so_far, gate)]
      : []),
    successRow(gate),
    reportedRow(gate),
    wayRow(gate),
    soakRow(gate, nowMs),
    ...metrics.map((one) => metricRow(one, gate)),
  ];
}

function failureRow(key: string, label: string, tally: Tally, gate: GateNumbers): GateRow {
  const value = tally.reported > 0 ? tally.bad / tally.reported : undefined;
  // The gate does not judge fewer than that many.
  const enough = Math.max(1, Math.min(gate.min_reported, tally.due));
  const isBroken = value !== undefined && value > gate.max_failure;
  const scale = Math.min(1, Math.max(gate.max_failure * 2, (value ?? 0) * 1.1, 0.02));
  return {
    key,
    label,
    standing: isBroken && tally.reported >= enough ? "broken" : value === undefined ? "waits" : "ok",
    value: value === undefined ? "–" : percentText(value),
    limit: `at most ${percentText(gate.max_failure)}`,
    note:
      value === undefined
        ? "nobody has reported yet"
        : `${formatNumber(tally.bad)} of ${formatNumber(tally.reported)}`,
    share: (value ?? 0) / scale,
    threshold: gate.max_failure / scale,
  };
}

function successRow(gate: GateNumbers): GateRow {
  const { good, reported } = gate.own;
  const value = reported > 0 ? good / reported : undefined;
  return {
    key: "success",
    label: "Succeeded",
    standing: success(value, gate),
    value: value === undefined ? "–" : percentText(value),
    limit: `at least ${percentText(gate.min_success)}`,
    note:
      value === undefined
        ? "nobody has reported yet"
        : `${formatNumber(good)} of ${formatNumber(reported)}`,
    share: value ?? 0,
    threshold: gate.min_success,
  };
}

/** Too few is not the end as long as somebody may still come. */
function success(value: number | undefined, gate: GateNumbers): Standing {
  if (value !== undefined && value >= gate.min_success) return "ok";
  const { at_work: atWork, reachable, offline } = gate.own;
  return value === undefined || atWork + reachable + offline > 0 ? "waits" : "broken";
}

function reportedRow(gate: GateNumbers): GateRow {
  const { reported, due } = gate.own;
  const scale = Math.max(due, reported, gate.min_reported, 1);
  return {
    key: "reported",
    label: "Reported",
    standing: reported >= gate.min_reported ? "ok" : "waits",
    value: formatNumber(reported),
    limit: `at least ${formatNumber(gate.min_reported)}`,
    note: `of ${countOf(due, "agent")} that had to get it`,
    share: reported / scale,
    threshold: gate.min_reported / scale,
  };
}

function wayRow(gate: GateNumbers): GateRow {
  const { at_work: atWork, reachable, offline } = gate.own;
  const left = atWork + reachable;
  const notes = [
    reachable > 0 ? `${formatNumber(reachable)} still to be told` : "",
    offline > 0 ? `${formatNumber(offline)} offline, not waited for` : "",
  ];
  return {
    key: "way",
    label: "On the way",
    standing: left === 0 ? "ok" : "waits",
    value: formatNumber(left),
    limit: "nobody",
    note: notes.filter(Boolean).join(", "),
    share: undefined,
    threshold: undefined,
  };
}

function soakRow(gate: GateNumbers, nowMs: number): GateRow {
  const wholeMs = gate.soak_s * 1000;
  const heldMs =
    gate.held_since === null
      ? 0
      : Math.min(wholeMs, Math.max(0, nowMs - Date.parse(gate.held_since)));
  const isOver = gate.held_since !== null && heldMs >= wholeMs;
  return {
    key: "soak",
    label: "Soak",
    standing: isOver || gate.verdict === "passed" ? "ok" : "waits",
    value: gate.verdict === "passed" ? formatDuration(wholeMs) : formatDuration(heldMs),
    limit: `for ${formatDuration(wholeMs)}`,
    note: gate.held_since === null ? "begins when all of the above holds" : "",
    share: gate.verdict === "passed" || wholeMs === 0 ? Number(isOver || gate.verdict === "passed") : heldMs / wholeMs,
    threshold: undefined,
  };
}

function metricRow(wanted: MetricGate, gate: GateNumbers): GateRow {
  const read = gate.metrics.find((one) => one.metric === wanted.metric);
  const unit = METRICS.find((one) => one.name === wanted.metric)?.unit ?? "";
  const row = {
    key: `metric-${wanted.metric}`,
    label: metricLabel(wanted.metric),
    limit: describeMetric(wanted).replace(/^.*? not more than /, "at most "),
    share: undefined,
    threshold: undefined,
  };
  if (read === undefined) {
    return { ...row, standing: "waits", value: "–", note: "compared when the soak is over" };
  }
  const mean = read.stage_mean === null ? "–" : `${figure(read.stage_mean)} ${unit}`.trim();
  if (read.verdict === "inconclusive" || read.rest_mean === null) {
    return { ...row, standing: gate.held_since === null ? "waits" : "broken", value: mean, note: read.reason };
  }
  // The api says how much worse it is: where less is worse, that much less.
  const way = wanted.worse === "lower" ? -1 : 1;
  const by =
    wanted.max_change === null || read.change === null
      ? signed(way * (read.difference ?? 0))
      : `${signed(way * read.change * 100)} %`;
  return {
    ...row,
    standing: read.verdict === "worse" ? "broken" : "ok",
    value: mean,
    note: `against ${figure(read.rest_mean)} ${unit} in the rest: ${by}`.replace("  ", " "),
  };
}

/** Three digits are enough to compare. */
function figure(value: number): string {
  return formatNumber(Number(value.toPrecision(3)));
}

function signed(change: number): string {
  return `${change > 0 ? "+" : ""}${figure(change)}`;
}

/** "(40.0%) failed, 5.0% may": a share, and what it may be. */
const LIMIT = /, (\d+(?:\.\d+)? %) may\b/g;
const SHARE = /(\d+(?:\.\d+)?)%/g;

/** The figures of a gate's reason as they stand beside it. */
export function asFigures(text: string): string {
  return text
    .replaceAll(SHARE, (_, share: string) => percentText(Number(share) / 100))
    .replaceAll(LIMIT, "; at most $1 may");
}
