import { asFigures } from "./gates";
import type { Schemas } from "@/api/client";
import type { DeploymentDetail } from "@/api/resources";
import { badOf, type DeploymentState, progressOf } from "@/text/deployments";
import { countOf, formatNumber, sentence, words } from "@/text/format";

export type Move = "start" | "pause" | "resume" | "advance" | "retry-failed" | "rollback" | "abort";
export type Previous = Schemas["PreviousView"];

export const MOVE_LABELS: Record<Move, string> = {
  start: "Start",
  pause: "Pause",
  resume: "Resume",
  advance: "Advance",
  "retry-failed": "Retry failed",
  rollback: "Roll back",
  abort: "Abort",
};

/** A reason is asked for where something ends, or goes against what a gate says. */
export const NEEDS_REASON: readonly Move[] = ["advance", "rollback", "abort"];
export const DANGEROUS: readonly Move[] = ["rollback", "abort"];

const BEGUN: DeploymentState[] = ["running", "paused"];
const OVER: Partial<Record<DeploymentState, string>> = {
  completed: "It is complete.",
  aborted: "It was aborted: start a new one.",
  rolling_back: "It is rolling back.",
  rolled_back: "It was rolled back: start a new one.",
};

type Standing = Pick<DeploymentDetail, "state" | "actions" | "counts" | "stage" | "stages">;

/** Whether nobody has been told of it yet, and it may still begin. */
export function isToStart(state: DeploymentState): boolean {
  return state === "draft" || state === "awaiting_approval" || state === "scheduled";
}

/** The moves that make sense to show in this state, whether they can be done now or not. */
export function movesOf(state: DeploymentState): Move[] {
  if (isToStart(state)) return ["start", "abort"];
  if (state === "completed") return ["rollback"];
  if (state !== "running" && state !== "paused") return [];
  return [
    state === "paused" ? "resume" : "pause",
    "advance",
    "retry-failed",
    "rollback",
    "abort",
  ];
}

/** Why something cannot be done now, in a sentence; empty where it can. */
export function whyNot(move: Move, one: Standing): string {
  const over = OVER[one.state];
  if (over !== undefined && !(move === "rollback" && one.state === "completed")) return over;
  if (move === "advance" && BEGUN.includes(one.state) && one.stage + 1 >= one.stages.length) {
    return "This is the last stage.";
  }
  if (move === "retry-failed" && BEGUN.includes(one.state) && badOf(one.counts) === 0) {
    return "No agent has failed, timed out or been lost.";
  }
  const told = one.actions.find(({ name }) => name === move)?.why_not ?? null;
  return told === null ? "" : `${sentence(words(told))}.`.replace(/\.\.$/, ".");
}

const are = (count: number, one: string, many: string): string => (count === 1 ? one : many);

/** What a move does, to how many agents: what the dialog says before. `previous` is what agents
 * ran before, once that is known. */
export function consequencesOf(
  move: Move,
  one: DeploymentDetail,
  previous?: readonly Previous[],
): string[] {
  const { counts } = one;
  const { atWork, pending } = progressOf(counts);
  const succeeded = counts.succeeded ?? 0;
  switch (move) {
    case "start":
      return startOf(one);
    case "pause":
      return [
        pending > 0
          ? `${countOf(pending, "agent")} that ${are(pending, "was", "were")} not told yet ${are(pending, "waits", "wait")}.`
          : "Nobody else is told.",
        ...(atWork > 0 ? [`${countOf(atWork, "agent")} on the way ${are(atWork, "goes", "go")} on.`] : []),
        "Nothing is taken back. The soak begins anew when it goes on.",
      ];
    case "resume":
      return [
        ...stopsAgain(one),
        pendingIn(one) > 0
          ? `${countOf(pendingIn(one), "agent")} of this stage ${are(pendingIn(one), "is", "are")} told.`
          : "Everybody of this stage was told already.",
        "The gate is judged on from how it stands now.",
      ];
    case "advance": {
      const next = one.stages[one.stage + 1];
      const added = next?.counts.pending ?? next?.agents ?? 0;
      return [
        `Stage ${one.stage + 2} begins now: ${countOf(added, "more agent")} ${are(added, "gets", "get")} the release.`,
        one.gate !== null && one.gate.verdict !== "passed"
          ? `The gate of stage ${one.stage + 1} has not passed: ${asFigures(one.gate.reason)}.`
          : `The gate of stage ${one.stage + 1} is not asked.`,
        "What fails in it still counts for the gates to come.",
      ];
    }
    case "retry-failed": {
      const bad = badOf(counts);
      return [
        `Up to ${countOf(bad, "agent")} that failed, timed out or ${are(bad, "was", "were")} lost ${are(bad, "is", "are")} sent the release again.`,
        "Who has had all its retries is not, nor who has rejected it.",
        "They count for the gate anew, and its soak begins again.",
      ];
    }
    case "rollback":
      return rollbackOf(one, previous);
    case "abort":
      if (isToStart(one.state)) return ["It ends for good.", "Nobody has been told of it."];
      return [
        "It ends for good.",
        ...(pending > 0
          ? [`${countOf(pending, "agent")} that ${are(pending, "was", "were")} not told ${are(pending, "gets", "get")} nothing.`]
          : []),
        ...(atWork > 0
          ? [`For ${countOf(atWork, "agent")} on the way it is withdrawn, where the agent has not acted on it yet.`]
          : []),
        ...(succeeded > 0
          ? [`${countOf(succeeded, "agent")} that ${are(succeeded, "runs", "run")} it ${are(succeeded, "goes", "go")} on running it. To take it back, roll back instead.`]
          : []),
      ];
  }
}

function startOf(one: DeploymentDetail): string[] {
  if (one.state === "awaiting_approval") {
    return ["It is asked once more for a second person, where the first request is over."];
  }
  const isLater = one.start_at !== null && Date.parse(one.start_at) > Date.now();
  return [
    isLater
      ? "It is scheduled: who is in it is settled at that time."
      : "Who is in it, and in which stage, is settled now. The first stage is told at once.",
    "Where a fleet demands a second person, that person is asked first.",
  ];
}

/** Agents of the present stage, or of those before it, that are still to be told. */
function pendingIn(one: DeploymentDetail): number {
  return one.stages
    .slice(0, one.stage + 1)
    .reduce((sum, stage) => sum + (stage.counts.pending ?? 0), 0);
}

function stopsAgain(one: DeploymentDetail): string[] {
  const { gate } = one;
  if (gate === null || !["failed", "stuck", "inconclusive"].includes(gate.verdict)) return [];
  const acts = one.strategy.on_failure === "rollback" && gate.verdict === "failed";
  return [
    `The gate still says: ${asFigures(gate.reason)}. Unless that changes, it ${acts ? "rolls back" : "pauses again"} at once.`,
  ];
}

function rollbackOf(one: DeploymentDetail, previous?: readonly Previous[]): string[] {
  const found: string[] = [];
  if (previous !== undefined) {
    for (const { package_digest: digest, name, version, agents } of previous) {
      if (digest === null) continue;
      const what = name === one.release.name || name === null ? (version ?? "") : `${name} ${version}`;
      found.push(`${countOf(agents, "agent")} will go back to ${what}.`);
    }
    const without = previous
      .filter(({ package_digest: digest }) => digest === null)
      .reduce((sum, { agents }) => sum + agents, 0);
    if (without > 0) {
      found.push(
        `${countOf(without, "agent")} had nothing before, and ${are(without, "keeps", "keep")} what ${are(without, "it runs", "they run")}.`,
      );
    }
    if (previous.length === 0) found.push("Nobody was told of it: there is nothing to take back.");
  }
  const pending = one.counts.pending ?? 0;
  if (pending > 0) {
    found.push(`${countOf(pending, "agent")} that ${are(pending, "waits", "wait")} ${are(pending, "gets", "get")} nothing.`);
  }
  found.push(
    "Where the old package is still on the device that happens at once, else it is downloaded again.",
    "It cannot be resumed. The release itself stays.",
  );
  return found;
}

/** What came of a rollback so far: "8 of 12 agents are back". */
export function backText(one: Pick<DeploymentDetail, "rollback_counts">): string {
  const counts = one.rollback_counts;
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const elsewhere = (counts.superseded ?? 0) + (counts.gone ?? 0);
  const failed = counts.failed ?? 0;
  const parts = [
    `${formatNumber(counts.done ?? 0)} of ${countOf(all - elsewhere, "agent")} are back`,
    failed > 0 ? `${formatNumber(failed)} could not go back` : "",
    elsewhere > 0 ? `${formatNumber(elsewhere)} have another deployment by now` : "",
  ];
  return parts.filter(Boolean).join("; ");
}
