import { countOf, words } from "./format";
import type { Approval, ApprovalState } from "@/api/resources";
import type { Tone } from "@/components/UiBadge.vue";

interface KindText {
  /** What is asked for, as a title. */
  title: string;
  /** What approving does, which cannot be taken back. */
  effect: string;
}

const KINDS: Record<string, KindText> = {
  "fleet.revoke": {
    title: "Revoke a whole fleet",
    effect:
      "Every agent of the fleet is disconnected and refused, as a rule within a second, for good. Each device can only come back as a new agent.",
  },
  "agent.revoke": {
    title: "Revoke an agent",
    effect:
      "The agent is disconnected and refused for good. It takes a second person because one person has revoked many of this fleet within ten minutes.",
  },
  "manufacturer-ca.register": {
    title: "Register a manufacturer CA",
    effect: "Every device with a certificate of this CA may ask to enrol in the fleet.",
  },
  "publisher.register": {
    title: "Register a publisher",
    effect:
      "Packages that this key signs are believed by the platform at once, and by each agent that has the next trust bundle.",
  },
  "publisher.change": {
    title: "Change a publisher",
    effect:
      "What it may sign, and until when, is what stands here: on the platform at once, on each agent that has the next trust bundle. What is being deployed and may not be any more is paused.",
  },
  "publisher.revoke": {
    title: "Revoke a publisher",
    effect:
      "Uploads, deployments and model keys of everything that it has signed end at once, for good. Deployments that run are paused.",
  },
  "kek.destroy-version": {
    title: "Destroy a key version",
    effect: "Whatever is still under this version of the key, in a backup too, never opens again.",
  },
  "deployment.start": {
    title: "Start a deployment",
    effect: "The release goes to the agents of these fleets, stage by stage.",
  },
  "fleet.waive-approval": {
    title: "Waive the second person",
    effect: "Deployments to the fleet start on one person's word from then on.",
  },
  "trust-bundle.publish": {
    title: "Publish a trust bundle",
    effect: "Every agent replaces what it believes in by this bundle.",
  },
};

export function kindText(kind: string): KindText {
  return KINDS[kind] ?? { title: words(kind.replaceAll(".", " ")), effect: "" };
}

/** What of a request names the thing that it is about: the rest stands in the exact JSON. */
export function subjectOf(approval: Pick<Approval, "request" | "fleet">): string {
  const { request } = approval;
  if ("kek_id" in request) {
    const whose = approval.fleet === null ? "the platform's key" : `the key of ${approval.fleet}`;
    return `version ${String(request.version)} of ${whose}`;
  }
  for (const key of ["name", "agent_name", "fleet", "agent_id", "kid", "version"]) {
    const value = request[key];
    if (typeof value === "string" || typeof value === "number") {
      return key === "version" ? `version ${value}` : String(value);
    }
  }
  const { ids } = request;
  if (Array.isArray(ids)) return countOf(ids.length, "agent");
  return approval.fleet ?? "";
}

export const APPROVAL_STATES: Record<ApprovalState, { label: string; tone: Tone }> = {
  pending: { label: "Waiting", tone: "warn" },
  approved: { label: "Approved", tone: "ok" },
  rejected: { label: "Rejected", tone: "bad" },
  expired: { label: "Expired", tone: "quiet" },
  failed: { label: "Failed", tone: "bad" },
};

/** A request ends by itself before anybody has told us. */
export function approvalState(
  approval: Pick<Approval, "state" | "expires_at">,
  nowMs: number,
): ApprovalState {
  const isOver = approval.state === "pending" && Date.parse(approval.expires_at) <= nowMs;
  return isOver ? "expired" : approval.state;
}

/** Whether the api did not do it but asks a second person. */
export function isApproval(answer: object): answer is Approval {
  return "request_sha256" in answer;
}

const UUID = /^[0-9a-f-]{36}$/;

/** Who, from the id alone: an account's is a UUID; else it is the name of a part of the platform. */
export function actorOf(id: string): { kind: string; id: string } {
  if (UUID.test(id)) return { kind: "account", id };
  return id === "command-line" ? { kind: "on", id: "the platform's machine" } : { kind: "system", id };
}
