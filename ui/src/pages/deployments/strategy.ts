import { parseDuration, showDuration, tellDuration } from "./durations";

/** A strategy as the api has it, with everything that it fills in. */
export interface Strategy {
  stages: Stage[];
  on_failure: "pause" | "rollback";
  timeouts: { in_progress_s: number; begin_s: number; retries: number };
  ramp: Ramp | null;
  window: { start: string; duration_s: number; timezone: string } | null;
  stratify: string | null;
  allow_downgrade: boolean;
}
export interface Stage {
  percent: number;
  gate: Gate | null;
  on_pass: "advance" | "pause";
}
export interface Gate {
  min_reported: number;
  max_failure: number;
  min_success: number;
  soak_s: number;
  metrics: MetricGate[];
}
export interface MetricGate {
  metric: string;
  worse: "higher" | "lower";
  max_change: number | null;
  max_difference: number | null;
  min_agents: number;
}
export interface Ramp {
  initial_per_minute: number;
  factor: number;
  max_per_minute: number;
}

/** What number fields hold: nothing while somebody types. */
type Figure = number | "";

export interface MetricForm {
  key: number;
  metric: string;
  worse: "higher" | "lower";
  limit: "change" | "difference";
  most: Figure;
  minAgents: Figure;
}
export interface StageForm {
  key: number;
  percent: Figure;
  hasGate: boolean;
  minReported: Figure;
  maxFailure: Figure;
  minSuccess: Figure;
  soak: string;
  onPass: "advance" | "pause";
  metrics: MetricForm[];
}
export interface StrategyForm {
  stages: StageForm[];
  onFailure: "pause" | "rollback";
  inProgress: string;
  begin: string;
  retries: Figure;
  hasRamp: boolean;
  initialPerMinute: Figure;
  factor: Figure;
  maxPerMinute: Figure;
  hasWindow: boolean;
  windowStart: string;
  windowLength: string;
  timezone: string;
  stratify: string;
  allowsDowngrade: boolean;
}

export const MOST_STAGES = 20;
export const METRICS: { name: string; label: string; unit: string }[] = [
  { name: "cpu_percent", label: "CPU", unit: "%" },
  { name: "memory_percent", label: "Memory", unit: "%" },
  { name: "disk_percent", label: "Disk", unit: "%" },
  { name: "temperature_c", label: "Temperature", unit: "°C" },
  { name: "trust", label: "Trust score", unit: "points" },
];
const METRIC_NAME = /^(cpu_percent|memory_percent|disk_percent|temperature_c|trust|metrics\.[!-~]{1,64})$/;

export function metricLabel(name: string): string {
  return METRICS.find((one) => one.name === name)?.label ?? name.replace(/^metrics\./, "");
}

let lastKey = 0;
function nextKey(): number {
  lastKey += 1;
  return lastKey;
}

export function newStage(percent: Figure, hasGate = true): StageForm {
  return {
    key: nextKey(),
    percent,
    hasGate,
    minReported: 5,
    maxFailure: 5,
    minSuccess: 90,
    soak: "5m",
    onPass: "advance",
    metrics: [],
  };
}

export function newMetric(): MetricForm {
  return {
    key: nextKey(),
    metric: "cpu_percent",
    worse: "higher",
    limit: "change",
    most: 20,
    minAgents: 1,
  };
}

export const PRESETS = [
  {
    name: "canary",
    title: "Canary",
    text: "10 % first; everybody when those have held for 5 minutes.",
    stages: [10, 100],
    soak: "5m",
  },
  {
    name: "careful",
    title: "Step by step",
    text: "1 %, 10 %, 50 %, everybody; each step holds for 15 minutes.",
    stages: [1, 10, 50, 100],
    soak: "15m",
  },
  {
    name: "at-once",
    title: "All at once",
    text: "Everybody now, and no gate that stops it.",
    stages: [100],
    soak: "0s",
  },
] as const;
export type PresetName = (typeof PRESETS)[number]["name"];

export function stagesOf(name: PresetName): StageForm[] {
  const preset = PRESETS.find((one) => one.name === name) ?? PRESETS[0];
  return preset.stages.map((percent) => ({
    ...newStage(percent, percent !== 100),
    soak: percent === 100 ? "5m" : preset.soak,
  }));
}

/** Which preset the stages are, if they are one. */
export function presetOf(stages: readonly StageForm[]): PresetName | undefined {
  const same = JSON.stringify(stages.map(toStage));
  return PRESETS.map(({ name }) => name).find(
    (name) => JSON.stringify(stagesOf(name).map(toStage)) === same,
  );
}

export function newStrategy(): StrategyForm {
  return {
    stages: stagesOf("canary"),
    onFailure: "pause",
    inProgress: "30m",
    begin: "30m",
    retries: 3,
    hasRamp: false,
    initialPerMinute: 100,
    factor: 2,
    maxPerMinute: 10_000,
    hasWindow: false,
    windowStart: "22:00",
    windowLength: "4h",
    timezone: "agent",
    stratify: "",
    allowsDowngrade: false,
  };
}

function figure(value: Figure): number {
  return value === "" ? Number.NaN : value;
}

/** Percent as a share, without what binary fractions add to it. */
function share(percent: Figure): number {
  return Number((figure(percent) / 100).toFixed(6));
}

function toMetric(form: MetricForm): MetricGate {
  const isChange = form.limit === "change";
  return {
    metric: form.metric.trim(),
    worse: form.worse,
    max_change: isChange ? share(form.most) : null,
    max_difference: isChange ? null : figure(form.most),
    min_agents: figure(form.minAgents),
  };
}

function toStage(form: StageForm): Stage {
  return {
    percent: figure(form.percent),
    gate: form.hasGate
      ? {
          min_reported: figure(form.minReported),
          max_failure: share(form.maxFailure),
          min_success: share(form.minSuccess),
          soak_s: parseDuration(form.soak) ?? Number.NaN,
          metrics: form.metrics.map(toMetric),
        }
      : null,
    on_pass: form.hasGate ? form.onPass : "advance",
  };
}

/** What the api is told; only sent where `problemsOf` says nothing. */
export function toStrategy(form: StrategyForm): Strategy {
  return {
    stages: form.stages.map(toStage),
    on_failure: form.onFailure,
    timeouts: {
      in_progress_s: parseDuration(form.inProgress) ?? Number.NaN,
      begin_s: parseDuration(form.begin) ?? Number.NaN,
      retries: figure(form.retries),
    },
    ramp: form.hasRamp
      ? {
          initial_per_minute: figure(form.initialPerMinute),
          factor: figure(form.factor),
          max_per_minute: figure(form.maxPerMinute),
        }
      : null,
    window: form.hasWindow
      ? {
          start: form.windowStart,
          duration_s: parseDuration(form.windowLength) ?? Number.NaN,
          timezone: form.timezone.trim(),
        }
      : null,
    stratify: form.stratify.trim() || null,
    allow_downgrade: form.allowsDowngrade,
  };
}

const DAY_S = 86_400;
const READABLE = "Like 30s, 5m or 1h 30m.";

function between(value: Figure, least: number, most: number): string {
  const number = figure(value);
  return number >= least && number <= most ? "" : `From ${least} to ${most}.`;
}

function whole(value: Figure, least: number, most: number): string {
  return Number.isInteger(value) ? between(value, least, most) : `A whole number from ${least} to ${most}.`;
}

function length(text: string, leastS: number, mostS: number): string {
  const seconds = parseDuration(text);
  if (seconds === undefined) return READABLE;
  const isIn = seconds >= leastS && seconds <= mostS;
  return isIn ? "" : `From ${showDuration(leastS)} to ${showDuration(mostS)}.`;
}

function percentError(stages: readonly StageForm[], place: number): string {
  const { percent = "" } = stages[place] ?? {};
  const range = whole(percent, 1, 100);
  if (range !== "") return range;
  const before = place === 0 ? 0 : figure(stages[place - 1]?.percent ?? "");
  if (figure(percent) <= before) return `More than the ${before} % before it.`;
  const isLast = place === stages.length - 1;
  return isLast && percent !== 100 ? "The last stage is everybody: 100." : "";
}

/** What is wrong, by the field's name: "stages.0.percent", "stages.0.metrics.1.most", "begin". */
export function problemsOf(form: StrategyForm): Map<string, string> {
  const found = new Map<string, string>();
  const note = (field: string, error: string): void => {
    if (error !== "") found.set(field, error);
  };
  form.stages.forEach((stage, place) => {
    const at = `stages.${place}`;
    note(`${at}.percent`, percentError(form.stages, place));
    if (!stage.hasGate) return;
    note(`${at}.minReported`, whole(stage.minReported, 1, 1_000_000));
    note(`${at}.maxFailure`, between(stage.maxFailure, 0, 100));
    note(`${at}.minSuccess`, between(stage.minSuccess, 0, 100));
    note(`${at}.soak`, length(stage.soak, 0, 14 * DAY_S));
    if (stage.metrics.length > 0 && parseDuration(stage.soak) === 0) {
      note(`${at}.soak`, "Metrics are compared over the soak: give it some time.");
    }
    stage.metrics.forEach((metric, index) => {
      const where = `${at}.metrics.${index}`;
      if (!METRIC_NAME.test(metric.metric.trim())) {
        note(`${where}.metric`, "Of the heartbeat's own figures: metrics.<name>.");
      }
      note(`${where}.most`, between(metric.most, 0, 100_000));
      note(`${where}.minAgents`, whole(metric.minAgents, 1, 1000));
    });
    if (stage.metrics.length > 0 && stage.percent === 100) {
      note(`${at}.metrics`, "At 100 % there is no rest of the fleet to compare with.");
    }
  });
  note("inProgress", length(form.inProgress, 60, 7 * DAY_S));
  note("begin", length(form.begin, 60, 7 * DAY_S));
  note("retries", whole(form.retries, 0, 100));
  if (form.hasRamp) {
    note("initialPerMinute", whole(form.initialPerMinute, 1, 1_000_000));
    note("factor", between(form.factor, 1, 100));
    note("maxPerMinute", whole(form.maxPerMinute, 1, 1_000_000));
    if (figure(form.initialPerMinute) > figure(form.maxPerMinute)) {
      note("maxPerMinute", "At least what it begins with.");
    }
  }
  if (form.hasWindow) {
    note("windowLength", length(form.windowLength, 60, DAY_S));
    if (!/^([01]\d|2[0-3]):[0-5]\d$/.test(form.windowStart)) note("windowStart", "Like 22:00.");
    if (form.timezone.trim() === "") note("timezone", "Like Europe/Berlin.");
  }
  return found;
}

/** Percent as people write it: "5 %", "2.5 %". */
export function percentText(value: number, digits = 1): string {
  return `${Number((value * 100).toFixed(digits))} %`;
}

/** One stage in a sentence's part: "10 %, held for 5 min". */
export function describeGate(gate: Gate | null): string {
  if (gate === null) return "no gate";
  const parts = [
    `at most ${percentText(gate.max_failure)} fail`,
    `at least ${percentText(gate.min_success)} succeed`,
    `${gate.min_reported} ${gate.min_reported === 1 ? "has" : "have"} reported`,
    gate.soak_s > 0 ? `all that holds for ${tellDuration(gate.soak_s)}` : "",
    ...gate.metrics.map(describeMetric),
  ];
  return parts.filter(Boolean).join(", ");
}

export function describeMetric(gate: Pick<MetricGate, "metric" | "worse" | "max_change" | "max_difference">): string {
  const limit =
    gate.max_change !== null ? percentText(gate.max_change) : String(gate.max_difference ?? 0);
  return `${metricLabel(gate.metric)} not more than ${limit} ${gate.worse} than in the rest`;
}
