import type { Schemas } from "@/api/client";

type Numbers = Schemas["NumbersView"];
interface Line {
  name: keyof Numbers;
  label: string;
  /** Worth a second look where it is not zero. */
  isTrouble?: boolean;
}

/** The main numbers of a report, as its page groups them; types lead to the ledger. */
export const NUMBER_GROUPS: readonly { title: string; lines: readonly Line[] }[] = [
  {
    title: "Enrolment",
    lines: [
      { name: "enrolled", label: "agents enrolled" },
      { name: "enrollments_refused", label: "enrolments refused", isTrouble: true },
      { name: "moved_in", label: "agents moved in" },
      { name: "moved_away", label: "agents moved away" },
      { name: "certificates_renewed", label: "certificates renewed" },
    ],
  },
  {
    title: "Revocations",
    lines: [
      { name: "revoked", label: "agents revoked" },
      { name: "revocations_confirmed", label: "confirmed by every front" },
      { name: "revocations_partial", label: "confirmed in part at first", isTrouble: true },
    ],
  },
  {
    title: "Releases",
    lines: [
      { name: "packages", label: "packages uploaded" },
      { name: "packages_refused", label: "packages refused", isTrouble: true },
      { name: "releases", label: "releases" },
      { name: "deployments_started", label: "deployments started" },
      { name: "deployments_ended", label: "deployments ended" },
    ],
  },
  {
    title: "Use of keys",
    lines: [
      { name: "grants_issued", label: "model keys granted" },
      { name: "grants_denied", label: "model keys refused", isTrouble: true },
      { name: "kek_rotations", label: "KEK rotations" },
      { name: "decryptions", label: "decryptions" },
      { name: "decryption_failures", label: "decryptions failed", isTrouble: true },
    ],
  },
  {
    title: "People and violations",
    lines: [
      { name: "violations", label: "violations", isTrouble: true },
      { name: "changes", label: "changes of configuration and rights" },
      { name: "sign_ins", label: "sign-ins" },
      { name: "sign_ins_failed", label: "sign-ins failed", isTrouble: true },
    ],
  },
];
