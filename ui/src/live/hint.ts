/** What a hint may be about. */
export const KINDS = ["agent", "deployment", "ledger", "overview"] as const;
export type Kind = (typeof KINDS)[number];

/** "Something changed": ids only, whoever shows it reads it again. */
export interface Hint {
  kind: Kind;
  id: string | null;
  fleet: string | null;
}

/** Read a hint; undefined where it is none that we know. */
export function parseHint(type: string, data: string): Hint | undefined {
  try {
    const value: unknown = JSON.parse(data);
    if (typeof value !== "object" || value === null) return undefined;
    const { kind = type, id, fleet } = value as Record<string, unknown>;
    if (!KINDS.includes(kind as Kind)) return undefined;
    return {
      kind: kind as Kind,
      id: typeof id === "string" ? id : null,
      fleet: typeof fleet === "string" ? fleet : null,
    };
  } catch {
    return undefined;
  }
}

/** What a query shows, so that hints find it: it stands in the query's meta. */
export interface Liveness {
  kinds: readonly Kind[];
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
  if (!liveness.kinds.includes(hint.kind)) return "never";
  if (liveness.id !== undefined && hint.id !== null && hint.id !== liveness.id) return "never";
  if (liveness.fleet !== undefined && hint.fleet !== null && hint.fleet !== liveness.fleet) {
    return "never";
  }
  if (liveness.shows !== undefined && hint.id !== null && data !== undefined) {
    return liveness.shows(data).has(hint.id) ? "now" : "later";
  }
  return "now";
}
