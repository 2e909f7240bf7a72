import { asFigures } from "./gates";
import { backText } from "./moves";
import { metricLabel, METRICS } from "./strategy";
import type { Deployment, DeploymentDetail } from "@/api/resources";
import { badText, progressOf } from "@/text/deployments";
import { formatDuration, formatMoment, formatNumber, sentence } from "@/text/format";

export interface Headline {
  tone: "quiet" | "accent" | "ok" | "warn" | "bad";
  text: string;
}

/** An ISO moment in the middle of what the api says, as people here read it. */
const MOMENT = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d:\d\d|Z)/g;

const PLURALS: [RegExp, string][] = [
  [/\b1 agents are\b/g, "1 agent is"],
  [/\b1 agents were\b/g, "1 agent was"],
  [/\b1 agents have\b/g, "1 agent has"],
  [/(?<!of )\b1 agents\b/g, "1 agent"],
];

/** What the api says, as a sentence: "1 agents are" is how a program counts, and "cpu_percent" what
 * it calls the CPU. */
export function asSentence(text: string): string {
  let said = asFigures(text.replaceAll(MOMENT, formatMoment)).trim();
  for (const { name, label } of METRICS) {
    if (name.includes("_")) said = said.replaceAll(name, label);
  }
  for (const [many, one] of PLURALS) said = said.replaceAll(many, one);
  if (said === "") return "";
  return /[.!?]$/.test(said) ? sentence(said) : `${sentence(said)}.`;
}

/** Why it waits, why it has stopped, or how it ended: one sentence, above everything else. */
export function headlineOf(one: DeploymentDetail, nowMs: number): Headline {
  switch (one.state) {
    case "draft":
      return { tone: "quiet", text: "Not started: nobody gets anything yet." };
    case "awaiting_approval":
      return { tone: "warn", text: waitsFor(one, "A second person has to agree.") };
    case "scheduled":
      return { tone: "accent", text: waitsFor(one, "It starts by itself.") };
    case "running":
      return { tone: "accent", text: runningText(one, nowMs) };
    case "paused":
      return { tone: "warn", text: asSentence(one.state_reason) || "Somebody has paused it." };
    case "completed": {
      const { done, of } = progressOf(one.counts);
      return { tone: done === of ? "ok" : "warn", text: completedText(one) };
    }
    case "aborted":
      return { tone: "bad", text: asSentence(one.state_reason) || "It was aborted." };
    case "rolling_back":
    case "rolled_back":
      return {
        tone: one.state === "rolled_back" ? "quiet" : "warn",
        text: `${backText(one)}. ${asSentence(one.state_reason)}`.trim(),
      };
  }
}

function waitsFor(one: DeploymentDetail, otherwise: string): string {
  return asSentence(one.waits_for || one.state_reason) || otherwise;
}

function runningText(one: DeploymentDetail, nowMs: number): string {
  const place = one.stages.length > 1 ? `Stage ${one.stage + 1} of ${one.stages.length}: ` : "";
  const { gate } = one;
  if (gate?.verdict === "holding" && gate.passes_at !== null) {
    const leftMs = Date.parse(gate.passes_at) - nowMs;
    const next = one.stage + 1 < one.stages.length ? "the next stage begins" : "it is complete";
    const when = leftMs > 0 ? `in ${formatDuration(leftMs)}` : "any moment";
    const worse = gate.metrics.filter(({ verdict }) => verdict === "worse");
    if (worse.length > 0) {
      const which = worse.map(({ metric }) => metricLabel(metric)).join(" and ");
      const then = one.strategy.on_failure === "rollback" ? "rolls back" : "pauses";
      return `${place}${which} ${worse.length === 1 ? "is" : "are"} beyond the limit; if it stays so, it ${then} ${when}.`;
    }
    return `${place}everything holds; if it stays so, ${next} ${when}.`;
  }
  const said = asSentence(one.waits_for);
  if (said === "") return `${place}under way.`;
  return place === "" ? said : place + said.charAt(0).toLowerCase() + said.slice(1);
}

function completedText(one: DeploymentDetail): string {
  const said = asSentence(one.state_reason);
  const { done, of } = progressOf(one.counts);
  const count = done === of ? `All ${formatNumber(of)}` : `${formatNumber(done)} of ${formatNumber(of)}`;
  const bad = progressOf(one.counts).bad > 0 ? `; ${badText(one.counts)}` : "";
  const run = of === 1 && done === 1 ? "The agent runs it." : `${count} agents run it${bad}.`;
  return said === "" ? run : `${run} ${said}`;
}

/** The same, shorter: what a list has room for. Empty where the state says it all. */
export function noteOf(one: Deployment): string {
  if (one.state === "running" || one.state === "draft") return "";
  if (one.state === "scheduled" && one.state_reason === "" && one.start_at !== null) {
    return `starts ${formatMoment(one.start_at)}`;
  }
  return asSentence(one.state_reason);
}

/** Where it is in its stages: "stage 2 of 3 · 50 %". */
export function stageText(one: Deployment): string {
  const stages = (one.strategy.stages as { percent: number }[] | undefined) ?? [];
  if (stages.length < 2) return "";
  return `stage ${one.stage + 1} of ${stages.length} · ${stages[one.stage]?.percent ?? 100} %`;
}

