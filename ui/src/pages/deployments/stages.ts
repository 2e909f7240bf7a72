import type { DeploymentDetail } from "@/api/resources";
import type { Tone } from "@/components/UiBadge.vue";

type Stage = DeploymentDetail["stages"][number];

export interface StageStanding {
  label: string;
  tone: Tone;
  /** Where people look first. */
  isCurrent: boolean;
}

const ENDED = ["completed", "aborted", "rolling_back", "rolled_back"];

/** How a stage stands, in a word or two. */
export function stageStanding(
  one: Pick<DeploymentDetail, "state" | "stage" | "gate">,
  stage: Stage,
): StageStanding {
  const isCurrent = stage.stage === one.stage;
  const say = (label: string, tone: Tone): StageStanding => ({ label, tone, isCurrent });
  const verdict = typeof stage.verdict?.verdict === "string" ? stage.verdict.verdict : "";
  if (stage.started_at === null) return say(ENDED.includes(one.state) ? "Never begun" : "To come", "quiet");
  if (!isCurrent) {
    if (verdict === "passed") return say("Passed", "ok");
    return say("Left by a person", "note");
  }
  switch (one.state) {
    case "running":
      return one.gate?.verdict === "holding" ? say("Holds", "accent") : say("Under way", "accent");
    case "paused":
      if (verdict === "failed") return say("Failed", "bad");
      if (verdict === "passed") return say("Passed", "ok");
      if (verdict === "stuck") return say("Stuck", "warn");
      return verdict === "inconclusive" ? say("Inconclusive", "warn") : say("Paused", "warn");
    case "completed":
      return say("Done", "ok");
    default:
      return verdict === "failed" ? say("Failed", "bad") : say("Ended", "quiet");
  }
}
