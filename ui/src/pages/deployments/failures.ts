import type { Schemas } from "@/api/client";
import type { AgentState } from "@/text/deployments";

type Row = Schemas["DeploymentAgentView"];

export interface FailureGroup {
  key: string;
  state: AgentState;
  reason: string;
  count: number;
}

/** Failures by what they ended in and why, the most frequent first. */
export function failureGroups(rows: readonly Row[]): FailureGroup[] {
  const groups = new Map<string, FailureGroup>();
  for (const { state, reason } of rows) {
    const key = `${state}\n${reason}`;
    const known = groups.get(key);
    if (known === undefined) groups.set(key, { key, state, reason, count: 1 });
    else known.count += 1;
  }
  return [...groups.values()].sort((a, b) => b.count - a.count || a.key.localeCompare(b.key));
}

const WITHOUT_REASON: Partial<Record<AgentState, string>> = {
  lost: "No heartbeat since it was told",
  timed_out: "It did not finish in time",
  failed: "It gave no reason",
  rejected: "It gave no reason",
};

/** A reason as people read it; the agent's own words stay as they are. */
export function readReason(state: AgentState, reason: string): string {
  return reason === "" ? (WITHOUT_REASON[state] ?? "") : reason;
}
