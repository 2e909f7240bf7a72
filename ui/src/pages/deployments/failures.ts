import type { AgentState } from "@/text/deployments";

const WITHOUT_REASON: Partial<Record<AgentState, string>> = {
  lost: "No heartbeat since it was told",
  timed_out: "It did not finish in time",
  failed: "It gave no reason",
  rejected: "It gave no reason",
};

/** Of the URL: the group of those that gave no reason, which no text can name. */
export const NONE_GIVEN = "none";

/** A reason as people read it; the agent's own words stay as they are. */
export function readReason(state: AgentState, reason: string): string {
  return reason === "" ? (WITHOUT_REASON[state] ?? "") : reason;
}
