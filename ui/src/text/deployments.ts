import type { Schemas } from "@/api/client";
import type { Tone } from "@/components/UiBadge.vue";
import { formatNumber } from "./format";

export type AgentState = Schemas["AgentState"];
export type DeploymentState = Schemas["DeploymentState"];
export type Counts = Partial<Record<AgentState, number>>;

/** Agent states in the order in which an agent goes through them; the ends come first, so that
 * a bar of them grows from the left. */
export const AGENT_STATES: { state: AgentState; label: string; colour: string }[] = [
  { state: "succeeded", label: "Succeeded", colour: "var(--ok-mark)" },
  { state: "already_installed", label: "Already installed", colour: "#7fb89a" },
  { state: "activating", label: "Activating", colour: "#2f6fd0" },
  { state: "verifying", label: "Verifying", colour: "#5b8fe0" },
  { state: "downloading", label: "Downloading", colour: "#8db2ee" },
  { state: "notified", label: "Notified", colour: "#b9cff2" },
  { state: "failed", label: "Failed", colour: "var(--bad-mark)" },
  { state: "timed_out", label: "Timed out", colour: "#c2571f" },
  { state: "lost", label: "Lost", colour: "#8f3c46" },
  { state: "rejected", label: "Rejected", colour: "var(--note-mark)" },
  { state: "pending", label: "Pending", colour: "var(--line-strong)" },
  { state: "superseded", label: "Superseded", colour: "var(--quiet-mark)" },
  { state: "excluded", label: "Excluded", colour: "var(--quiet-mark)" },
];
const BAD_STATES: AgentState[] = ["failed", "timed_out", "lost", "rejected"];
const AT_WORK: AgentState[] = ["notified", "downloading", "verifying", "activating"];
const OUTSIDE: AgentState[] = ["excluded", "superseded"];

export const STATE_TONES: Record<DeploymentState, Tone> = {
  draft: "quiet",
  awaiting_approval: "warn",
  scheduled: "note",
  running: "accent",
  paused: "warn",
  completed: "ok",
  aborted: "bad",
  rolling_back: "warn",
  rolled_back: "note",
};

export function agentTone(state: AgentState): Tone {
  if (state === "succeeded" || state === "already_installed") return "ok";
  if (BAD_STATES.includes(state)) return state === "rejected" ? "note" : "bad";
  return AT_WORK.includes(state) ? "accent" : "quiet";
}

function total(counts: Counts, states: AgentState[]): number {
  return states.reduce((sum, state) => sum + (counts[state] ?? 0), 0);
}

export interface Progress {
  /** Agents that are to run the release. */
  of: number;
  done: number;
  atWork: number;
  bad: number;
  pending: number;
}

/** A deployment in five numbers; whom it does not concern counts nowhere. */
export function progressOf(counts: Counts): Progress {
  const all = Object.keys(counts) as AgentState[];
  return {
    of: total(counts, all) - total(counts, OUTSIDE),
    done: total(counts, ["succeeded", "already_installed"]),
    atWork: total(counts, AT_WORK),
    bad: total(counts, BAD_STATES),
    pending: counts.pending ?? 0,
  };
}

/** Agents that count against a gate, and can be tried again. */
export function badOf(counts: Counts): number {
  return total(counts, ["failed", "timed_out", "lost"]);
}

/** "12 failed", "12 failed or lost": what stands behind the bad ones of a progress. */
export function badText(counts: Counts): string {
  const failed = total(counts, ["failed", "rejected"]);
  const gone = total(counts, ["lost", "timed_out"]);
  const sum = formatNumber(failed + gone);
  if (gone === 0) return `${sum} failed`;
  return failed === 0 ? `${sum} lost` : `${sum} failed or lost`;
}

/** That it is taken back, or on its way; empty where it is not. */
export function takenBackText(state: DeploymentState): string {
  if (state === "rolled_back") return "taken back";
  return state === "rolling_back" ? "going back" : "";
}

export type BackState = Schemas["RollbackState"];

/** On its way back, from its beginning to each of its ends. */
export const BACK_STATES: { state: BackState; label: string }[] = [
  { state: "waiting", label: "Waiting" },
  { state: "assigned", label: "Told to go back" },
  { state: "done", label: "Back" },
  { state: "failed", label: "Could not go back" },
  { state: "superseded", label: "Has a later one" },
  { state: "gone", label: "Revoked or moved away" },
];

export function backLabel(state: BackState): string {
  return BACK_STATES.find((one) => one.state === state)?.label ?? state;
}

/** How an agent stands on its way back. */
export function backTone(state: BackState): Tone {
  if (state === "done") return "ok";
  if (state === "failed") return "bad";
  return state === "waiting" || state === "assigned" ? "accent" : "quiet";
}
