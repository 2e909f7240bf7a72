import type { Schemas } from "@/api/client";
import { sentenceOf } from "@/text/ledger";
import { words } from "@/text/format";

/** Types of entries whose names begin alike. */
export interface Family {
  prefix: string;
  title: string;
  types: { type: string; title: string }[];
}

const TITLES: Record<string, string> = {
  agent: "Agents",
  "agent.reported": "What agents report",
  "api-key": "API keys",
  approval: "Approvals",
  ca: "Certification authorities",
  deployment: "Deployments",
  event: "Events that are wrong",
  events: "Events that are missing",
  fleet: "Fleets",
  grant: "Model keys",
  kek: "Keys that wrap keys",
  key: "Signing keys",
  ledger: "The ledger itself",
  "manufacturer-ca": "Manufacturer CAs",
  message: "Messages",
  package: "Packages",
  platform: "The platform",
  publisher: "Publishers",
  recovery: "Recoveries",
  release: "Releases",
  request: "Denied requests",
  "second-factor": "Second factors",
  service: "Services",
  session: "Signing in and out",
  sink: "Sinks",
  token: "Enrollment tokens",
  "trust-bundle": "Trust bundles",
  user: "Users",
};
const REPORTED = "agent.reported";

/** What a beginning of types is called. */
export function titleOf(prefix: string): string {
  return TITLES[prefix] ?? (prefix.includes(".") ? sentenceOf(prefix) : words(prefix));
}

/** The catalogue, family by family. */
export function familiesOf(kinds: readonly Schemas["EventTypeView"][]): Family[] {
  const found = new Map<string, Family>();
  for (const { type } of kinds) {
    const isReported = type.startsWith(`${REPORTED}.`);
    const prefix = isReported ? REPORTED : (type.split(".")[0] ?? type);
    const family = found.get(prefix) ?? { prefix, title: titleOf(prefix), types: [] };
    const sentence = sentenceOf(type);
    const title = isReported ? sentence.replace("Agent reports: ", "") : sentence;
    family.types.push({ type, title });
    found.set(prefix, family);
  }
  return [...found.values()].toSorted((a, b) => a.title.localeCompare(b.title, "en"));
}

/** The types that remain when one is chosen or no longer is; a family stands for all its own. */
export function toggled(chosen: readonly string[], one: string, family: Family): string[] {
  const rest = chosen.filter((it) => it !== one);
  if (one === family.prefix) {
    const others = rest.filter((it) => !family.types.some(({ type }) => type === it));
    return chosen.includes(one) ? others : [...others, one];
  }
  if (chosen.includes(family.prefix)) {
    // All of the family but this one.
    const others = family.types.map(({ type }) => type).filter((type) => type !== one);
    return [...rest.filter((it) => it !== family.prefix), ...others];
  }
  return chosen.includes(one) ? rest : [...rest, one];
}
