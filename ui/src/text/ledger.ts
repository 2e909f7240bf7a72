import type { Schemas } from "@/api/client";
import { words } from "./format";

/** A ledger entry with its exact bytes, read. */
export interface Entry {
  leafIndex: number;
  leafHash: string;
  bytes: Uint8Array<ArrayBuffer>;
  /** The exact bytes as text. */
  text: string;
  id: string;
  time: string;
  type: string;
  actor: { kind: string; id: string };
  subject: { kind: string; id: string };
  /** What they are called now, which is no part of the entry. */
  names: { actor: string | null; subject: string | null };
  fleet: string | null;
  outcome: string;
  details: Record<string, unknown>;
  /** Whether fields of it are encrypted, so that they can be forgotten. */
  hasPrivate: boolean;
}

export function readEntry(view: Schemas["EntryView"]): Entry {
  const bytes = Uint8Array.from(atob(view.entry), (char) => char.charCodeAt(0));
  const text = new TextDecoder().decode(bytes);
  const value = JSON.parse(text) as Pick<
    Entry,
    "id" | "time" | "type" | "actor" | "subject" | "fleet" | "outcome" | "details"
  > & { private?: unknown };
  return {
    leafIndex: view.leaf_index,
    leafHash: view.leaf_hash,
    bytes,
    text,
    id: value.id,
    time: value.time,
    type: value.type,
    actor: value.actor,
    subject: value.subject,
    names: { actor: view.actor_name, subject: view.subject_name },
    fleet: value.fleet ?? null,
    outcome: value.outcome,
    details: value.details ?? {},
    hasPrivate: value.private !== undefined && value.private !== null,
  };
}

/** As `readEntry`; undefined where the answer holds no entry, which only a wrong one does. */
export function findEntry(view: Schemas["EntryView"]): Entry | undefined {
  try {
    const entry = readEntry(view);
    const isWhole = [entry.id, entry.time, entry.type, entry.actor.id, entry.subject.id].every(
      (text) => typeof text === "string",
    );
    return isWhole ? entry : undefined;
  } catch {
    return undefined;
  }
}

const SENTENCES: Record<string, string> = {
  "agent.approved": "Agent approved",
  "agent.certificate-superseded": "Older certificates denied",
  "agent.move-cancelled": "Move to another fleet called off",
  "agent.move-ordered": "Move to another fleet ordered",
  "agent.moved": "Moved to another fleet",
  "agent.pending": "Agent waits for approval",
  "agent.recovered": "Agent came back after its certificate's end",
  "agent.rejected": "Agent rejected",
  "agent.released": "Device released",
  "agent.revocation-partial": "Revocation not confirmed by every front yet",
  "approval.approved": "Approved by a second person",
  "approval.expired": "Nobody approved in time",
  "approval.failed": "Approved, but could not be done",
  "approval.rejected": "Rejected by a second person",
  "approval.requested": "A second person asked for",
  "fleet.revocation-confirmed": "Revocation of the fleet confirmed by the broker fronts",
  "fleet.revocation-partial": "Revocation of the fleet not confirmed by every front yet",
  "fleet.revoked": "Fleet revoked",
  "manufacturer-ca.activated": "Manufacturer CA activated",
  "manufacturer-ca.proven": "Manufacturer CA proven",
  "manufacturer-ca.registered": "Manufacturer CA registered",
  "manufacturer-ca.revoked": "Manufacturer CA revoked",
  "recovery.approved": "Recovery approved",
  "recovery.rejected": "Recovery rejected",
  "recovery.requested": "Agent asks to come back after its certificate's end",
  "second-factor.begun": "Second factor begun",
  "second-factor.confirmed": "Second factor set up",
  "second-factor.failed": "Second factor not shown",
  "second-factor.removed": "Second factor removed",
  "second-factor.reset": "Second factor reset by somebody else",
  "session.stepped-up": "Session stepped up",
  "agent.enrolled": "Agent enrolled",
  "agent.enrollment-failed": "Enrollment refused",
  "agent.renewed": "Certificate renewed",
  "agent.renewal-denied": "Certificate renewal denied",
  "agent.revoked": "Agent revoked",
  "agent.revocation-confirmed": "Revocation confirmed by the broker fronts",
  "agent.denied": "Forbidden MQTT operation denied",
  "agent.flooding": "Agent sent more events than it may",
  "agent.tags-changed": "Tags changed",
  "api-key.created": "API key created",
  "api-key.revoked": "API key revoked",
  "ca.issuing": "CA issues certificates from now on",
  "ca.retired": "CA retired",
  "command.finished": "Command finished",
  "command.issued": "Command sent to an agent",
  "compliance.report-exported": "Compliance report handed out",
  "deployment.aborted": "Deployment aborted",
  "deployment.advanced": "Deployment advanced",
  "deployment.approval-asked": "Deployment waits for a second person",
  "deployment.completed": "Deployment completed",
  "deployment.created": "Deployment created",
  "deployment.paused": "Deployment paused",
  "deployment.resumed": "Deployment resumed",
  "deployment.retried": "Failed agents tried again",
  "deployment.scheduled": "Deployment scheduled",
  "deployment.started": "Deployment started",
  "deployment.rolled-back": "Deployment rolled back",
  "deployment.rolling-back": "Deployment goes back",
  "event.conflict": "Event number used twice with different content",
  "event.malformed": "Malformed event",
  "events.gap": "Events are missing",
  "fleet.approval-set": "Second person for deployments set",
  "fleet.config-changed": "Fleet configuration changed",
  "fleet.created": "Fleet created",
  "grant.denied": "Model key refused",
  "grant.issued": "Model key granted",
  "kek.added": "Key added",
  "kek.expiring": "Imported key material expires soon",
  "kek.imported": "Key material imported",
  "kek.replaced": "Key replaced",
  "kek.retired": "Key retired",
  "kek.rewrap-ended": "Secrets rewrapped",
  "kek.rewrap-failed": "Rewrapping failed",
  "kek.rewrap-started": "Rewrapping started",
  "kek.rotated": "Key rotated",
  "kek.unusable": "Key taken away",
  "kek.usable": "Key usable again",
  "kek.version-destroyed": "Key version destroyed",
  "kek.version-disabled": "Key version disabled",
  "kek.version-enabled": "Key version enabled",
  "key.created": "Key created",
  "ledger.epoch-began": "New epoch of the ledger",
  "ledger.exported": "Ledger exported",
  "ledger.fork-seen": "A device remembers another ledger",
  "ledger.key-created": "Ledger key created",
  "ledger.key-retired": "Ledger key retired",
  "ledger.private-read": "Private fields read",
  "ledger.subject-erased": "Private fields erased",
  "message.poisoned": "Message that cannot be used",
  "package.refused": "Package refused",
  "package.uploaded": "Package uploaded",
  "platform.initialised": "Platform initialised",
  "publisher.changed": "Publisher changed",
  "publisher.registered": "Publisher registered",
  "publisher.revoked": "Publisher revoked",
  "release.created": "Release created",
  "release.withdrawn": "Release withdrawn",
  "request.denied": "Request without permission denied",
  "service.certificate-refused": "Certificate refused to a service",
  "service.certified": "Certificate issued to a service",
  "session.failed": "Sign-in failed",
  "session.signed-in": "Signed in",
  "session.signed-out": "Signed out",
  "sink.changed": "Sink changed",
  "sink.created": "Sink added",
  "sink.dead-letter-discarded": "Dead letter of a sink discarded",
  "sink.dead-lettered": "A sink has refused entries",
  "sink.dead-letters-replayed": "Dead letters of a sink replayed",
  "sink.deleted": "Sink deleted",
  "sink.failing": "A sink fails",
  "sink.gap": "Entries stand in a sink otherwise than here",
  "sink.paused": "Sink paused",
  "sink.recovered": "A sink takes entries again",
  "sink.replayed": "Entries sent to a sink again",
  "sink.resumed": "Sink resumed",
  "sink.secret-rotated": "Secret of a sink rotated",
  "sink.stopped": "A sink was stopped by its answer",
  "sink.tested": "Sink tested",
  "token.created": "Enrollment token created",
  "token.revoked": "Enrollment token revoked",
  "trust-bundle.published": "Trust bundle published",
  "user.created": "User created",
  "user.disabled": "User disabled",
  "user.password-reset": "Password reset",
  "user.role-changed": "Role changed",
};

/** What an entry's type says, as people say it. */
export function sentenceOf(type: string): string {
  if (type.startsWith("agent.reported.")) {
    return `Agent reports: ${words(type.slice("agent.reported.".length).replaceAll(".", " ")).toLowerCase()}`;
  }
  return SENTENCES[type] ?? words(type.replaceAll(".", " "));
}

/** What a security officer wants to see first: who came and went, what was refused, what keys and
 * rights changed. Dotted beginnings, as the ledger's filter takes them. */
export const SECURITY_TYPES = [
  "agent.enrolled",
  "agent.enrollment-failed",
  "agent.pending",
  "agent.approved",
  "agent.rejected",
  "agent.released",
  "agent.move-ordered",
  "agent.renewal-denied",
  "agent.revoked",
  "agent.denied",
  "agent.flooding",
  "agent.reported.decryption",
  "agent.reported.package",
  "agent.reported.signature",
  "agent.reported.policy",
  "agent.reported.outbox",
  "approval",
  "ca",
  "event",
  "events",
  "fleet.revoked",
  "grant.denied",
  "kek",
  "key",
  "ledger",
  "manufacturer-ca",
  "package.refused",
  "publisher",
  "recovery",
  "second-factor",
  "sink",
  "token",
  "user",
  "api-key",
  "session.failed",
  "request.denied",
  "deployment.aborted",
];

/** One line that tells what a list has no column for. */
export function summaryOf(details: Record<string, unknown>): string {
  const parts: string[] = [];
  for (const name of ["reason", "state", "permission", "version", "role", "error"]) {
    const value = details[name];
    if (typeof value === "string" || typeof value === "number") {
      parts.push(name === "reason" || name === "error" ? String(value) : `${name} ${value}`);
    }
  }
  const { count } = details;
  if (typeof count === "number" && count > 1) parts.push(`${count} times`);
  return parts.join(" · ");
}
