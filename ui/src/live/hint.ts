/** What a hint may be about. */
export const KINDS = [
  "agent",
  "deployment",
  "fleet",
  "package",
  "release",
  "approval",
  "trust",
  "ledger",
  "overview",
  "heartbeats",
  "sink",
] as const;
export type Kind = (typeof KINDS)[number];

/** "Something changed": ids only, whoever shows it reads it again. */
export interface Hint {
  kind: Kind;
  /** Null: any number of them. */
  id: string | null;
  fleet: string | null;
  /** Of `heartbeats`: how many were accepted since the hint before. */
  count?: number;
}

/** Read a hint; undefined where it is none that we know. */
export function parseHint(type: string, data: string): Hint | undefined {
  try {
    const value: unknown = JSON.parse(data);
    if (typeof value !== "object" || value === null) return undefined;
    const { kind = type, id, fleet, count } = value as Record<string, unknown>;
    if (!KINDS.includes(kind as Kind)) return undefined;
    return {
      kind: kind as Kind,
      id: typeof id === "string" ? id : null,
      fleet: typeof fleet === "string" ? fleet : null,
      ...(typeof count === "number" ? { count } : {}),
    };
  } catch {
    return undefined;
  }
}

/** What a query shows, so that hints find it: it stands in the query's meta. */
export interface Liveness {
  kinds: readonly Kind[];
  /** Kinds that change it a little, and often: it is read again when some time has passed. */
  later?: readonly Kind[];
  /** Only hints about this one concern it. */
  id?: string;
  /** Only hints of this fleet, and those of none, concern it. */
  fleet?: string;
  /** Of a list: which ids it shows. Hints about others only may add or remove a row. */
  shows?: (data: unknown) => ReadonlySet<string>;
}

export type Relevance = "now" | "later" | "never";

/** How soon a query has to be read again for a hint. */
export function relevanceOf(liveness: Liveness, hint: Hint, data: unknown): Relevance {
  const isSoon = liveness.kinds.includes(hint.kind);
  if (!isSoon && !liveness.later?.includes(hint.kind)) return "never";
  if (liveness.id !== undefined && hint.id !== null && hint.id !== liveness.id) return "never";
  if (liveness.fleet !== undefined && hint.fleet !== null && hint.fleet !== liveness.fleet) {
    return "never";
  }
  if (!isSoon) return "later";
  if (liveness.shows !== undefined && hint.id !== null && data !== undefined) {
    return liveness.shows(data).has(hint.id) ? "now" : "later";
  }
  return "now";
}
