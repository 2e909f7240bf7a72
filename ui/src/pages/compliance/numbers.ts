import type { Period } from "./period";
import type { Schemas } from "@/api/client";

type Numbers = Schemas["NumbersView"];
interface Line {
  name: keyof Numbers;
  label: string;
  /** Worth a second look where it is not zero. */
  isTrouble?: boolean;
  /** Types of the entries that are counted: the way to them. */
  types?: readonly string[];
  /** Each of those entries is of one fleet; others are of the whole platform, or of several. */
  isOwn?: boolean;
}

/** Types, or beginnings of some, that count as violations and as changes. */
const VIOLATIONS = [
  ...["agent.denied", "agent.flooding", "agent.reported.outbox", "agent.reported.package"],
  ...["agent.reported.policy", "agent.reported.signature", "event", "events", "ledger.fork-seen"],
  ...["message", "request", "service.certificate-refused"],
];
const CHANGES = [
  ...["agent.reported.config", "agent.tags-changed", "api-key", "approval", "ca", "fleet.approval-set"],
  ...["fleet.config-changed", "fleet.created", "ledger.epoch-began", "ledger.subject-erased"],
  ...["platform", "publisher", "second-factor.begun", "second-factor.confirmed"],
  ...["second-factor.removed", "second-factor.reset", "service.certified", "sink"],
  ...["trust-bundle", "user"],
];

interface Group {
  title: string;
  lines: readonly Line[];
  /** Below them stands how long revocations took. */
  isTimed?: boolean;
}

/** The main numbers of a report, as its page groups them. */
export const NUMBER_GROUPS: readonly Group[] = [
  {
    title: "Enrollment",
    lines: [
      { name: "enrolled", label: "agents enrolled", types: ["agent.enrolled"], isOwn: true },
      {
        name: "enrollments_refused",
        label: "enrollments refused",
        isTrouble: true,
        types: ["agent.enrollment-failed", "agent.rejected"],
        isOwn: true,
      },
      { name: "moved_in", label: "agents moved in", types: ["agent.moved"], isOwn: true },
      { name: "moved_away", label: "agents moved away" },
      {
        name: "certificates_renewed",
        label: "certificates renewed",
        types: ["agent.renewed"],
        isOwn: true,
      },
    ],
  },
  {
    title: "Revocations",
    isTimed: true,
    lines: [
      { name: "revoked", label: "agents revoked", types: ["agent.revoked"], isOwn: true },
      {
        name: "revocations_confirmed",
        label: "confirmed by every front",
        types: ["agent.revocation-confirmed", "fleet.revocation-confirmed"],
        isOwn: true,
      },
      {
        name: "revocations_partial",
        label: "confirmed in part at first",
        isTrouble: true,
        types: ["agent.revocation-partial", "fleet.revocation-partial"],
        isOwn: true,
      },
    ],
  },
  {
    title: "Releases",
    lines: [
      { name: "packages", label: "packages uploaded", types: ["package.uploaded"] },
      {
        name: "packages_refused",
        label: "packages refused",
        isTrouble: true,
        types: ["package.refused"],
      },
      { name: "releases", label: "releases", types: ["release.created"] },
      { name: "deployments_started", label: "deployments started", types: ["deployment.started"] },
      {
        name: "deployments_ended",
        label: "deployments ended",
        types: ["deployment.aborted", "deployment.completed", "deployment.rolled-back"],
      },
    ],
  },
  {
    title: "Use of keys",
    lines: [
      { name: "grants_issued", label: "model keys granted", types: ["grant.issued"], isOwn: true },
      {
        name: "grants_denied",
        label: "model keys refused",
        isTrouble: true,
        types: ["grant.denied"],
        isOwn: true,
      },
      { name: "kek_rotations", label: "KEK rotations", types: ["kek.rotated"] },
      {
        name: "decryptions",
        label: "decryptions",
        types: ["agent.reported.model.decrypted"],
        isOwn: true,
      },
      {
        name: "decryption_failures",
        label: "decryptions failed",
        isTrouble: true,
        types: ["agent.reported.decryption.failed"],
        isOwn: true,
      },
    ],
  },
  {
    title: "People and violations",
    lines: [
      { name: "violations", label: "violations", isTrouble: true, types: VIOLATIONS },
      { name: "changes", label: "changes of configuration and rights", types: CHANGES },
      { name: "sign_ins", label: "sign-ins", types: ["session.signed-in"] },
      {
        name: "sign_ins_failed",
        label: "sign-ins failed",
        isTrouble: true,
        types: ["session.failed", "second-factor.failed"],
      },
    ],
  },
];

/** The list of the ledger that has a line's entries, and none but the fleet's where each has one. */
export function entriesOf(
  line: Line,
  period: Period,
  fleet: string,
): { path: string; query: Record<string, string> } | undefined {
  if (line.types === undefined) return undefined;
  const { from, to } = period;
  const query = { type: line.types.join(","), from, until: to };
  return { path: "/ledger", query: line.isOwn && fleet !== "" ? { ...query, fleet } : query };
}
