import type { Schemas } from "@/api/client";

export type ComplianceBand = Schemas["BandView"]["band"];
export type ComplianceReason = Schemas["ReasonView"]["reason"];

/** The gravest first, as the api says them. `solid` is a ground for the surface's colour as text,
 * `soft` one for `solid` as text. `pattern` tells bands apart where colours do not. */
export const COMPLIANCE_BANDS: Record<
  ComplianceBand,
  { label: string; what: string; solid: string; soft: string; pattern: Pattern }
> = {
  revoked: {
    label: "Revoked",
    what: "Shut out for good",
    solid: "--ink-2",
    soft: "--sunken",
    pattern: "crossed",
  },
  "at-risk": {
    label: "At risk",
    what: "Did within 7 days what a sound agent does not do",
    solid: "--bad",
    soft: "--bad-soft",
    pattern: "striped",
  },
  attention: {
    label: "Attention",
    what: "Not heard, or about to be locked out",
    solid: "--warn",
    soft: "--warn-soft",
    pattern: "dotted",
  },
  compliant: {
    label: "Compliant",
    what: "Heard, with a good certificate, and nothing against it",
    solid: "--ok",
    soft: "--ok-soft",
    pattern: "plain",
  },
};
export type Pattern = "plain" | "dotted" | "striped" | "crossed";
export const COMPLIANCE_BAND_NAMES = Object.keys(COMPLIANCE_BANDS) as ComplianceBand[];

/** The gravest first: an agent has the first that holds for it. */
export const COMPLIANCE_REASONS: Record<ComplianceReason, { label: string; band: ComplianceBand }> =
  {
    revoked: { label: "Revoked", band: "revoked" },
    "decryption-failed": { label: "Decryption failed", band: "at-risk" },
    "signature-refused": { label: "Signature refused", band: "at-risk" },
    "policy-violation": { label: "Policy violation", band: "at-risk" },
    "operation-denied": { label: "Denied topic", band: "at-risk" },
    "conflicting-events": { label: "Conflicting events", band: "at-risk" },
    "low-trust": { label: "Low trust", band: "at-risk" },
    "certificate-expired": { label: "Certificate expired", band: "attention" },
    "certificate-ends-soon": { label: "Certificate ends soon", band: "attention" },
    offline: { label: "Offline", band: "attention" },
    "never-seen": { label: "Never seen", band: "attention" },
    flooding: { label: "Flooding", band: "attention" },
    "unreadable-messages": { label: "Unreadable messages", band: "attention" },
    late: { label: "Late", band: "compliant" },
    online: { label: "Online", band: "compliant" },
  };
export const COMPLIANCE_REASON_NAMES = Object.keys(COMPLIANCE_REASONS) as ComplianceReason[];

/** What a filter by compliance is called: a band's or a reason's word. */
export function complianceLabel(name: string): string {
  if (name in COMPLIANCE_BANDS) return COMPLIANCE_BANDS[name as ComplianceBand].label;
  return COMPLIANCE_REASONS[name as ComplianceReason]?.label ?? name;
}
