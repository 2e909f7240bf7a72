import type { operations } from "@/api/schema";
import { expiresBefore } from "@/text/certificates";
import { COMPLIANCE_BAND_NAMES, COMPLIANCE_REASON_NAMES } from "@/text/compliance";
import { BAND_NAMES, type Band } from "@/text/trust";

type Query = NonNullable<operations["list_agents_api_v1_agents_get"]["parameters"]["query"]>;
type Sort = NonNullable<Query["sort"]>;

export const FILTERS = ["q", "fleet", "presence", "trust", "status", "expires", "compliance", "selector"] as const;
const PRESENCES = ["never", "online", "late", "offline"] as const;
const STATUSES = ["pending", "active", "rejected", "revoked"] as const;
const SORTS = ["name", "created", "heartbeat", "trust", "cpu", "memory", "disk", "expiry"];
const BOUNDS: Record<Band, Pick<Query, "trust_at_least" | "trust_below">> = {
  trusted: { trust_at_least: 80 },
  watch: { trust_at_least: 50, trust_below: 80 },
  quarantined: { trust_at_least: 20, trust_below: 50 },
  compromised: { trust_below: 20 },
};

/** What a page's URL asks for, as the api takes it; what is no filter is left out. */
export function agentQuery(values: Record<string, string>, nowMs: number): Query {
  const band = oneOf(BAND_NAMES, values.trust);
  const sort = values.sort ?? "";
  return {
    fleet: values.fleet || undefined,
    q: values.q || undefined,
    selector: values.selector || undefined,
    presence: oneOf(PRESENCES, values.presence),
    status: oneOf(STATUSES, values.status),
    certificate_expires_before: expiresBefore(values.expires, nowMs),
    compliance: oneOf([...COMPLIANCE_BAND_NAMES, ...COMPLIANCE_REASON_NAMES], values.compliance),
    ...(band === undefined ? {} : BOUNDS[band]),
    sort: SORTS.includes(sort.replace(/^-/, "")) ? (sort as Sort) : undefined,
  };
}

function oneOf<T extends string>(known: readonly T[], value: string | undefined): T | undefined {
  return known.find((one) => one === value);
}
