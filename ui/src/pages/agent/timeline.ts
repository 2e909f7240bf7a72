import type { Schemas } from "@/api/client";
import { ROUTINE_TYPES } from "@/pages/ledger/filters";

type TimelineEntry = Schemas["TimelineEntry"];

export interface TimelineRow {
  /** The newest of them. */
  entry: TimelineEntry;
  count: number;
}

/** The entries as rows: what an agent reports all the time is one row until something else comes. */
export function rowsOf(newestFirst: readonly TimelineEntry[]): TimelineRow[] {
  const rows: TimelineRow[] = [];
  for (const entry of newestFirst) {
    const last = rows.at(-1);
    const isMore =
      last !== undefined &&
      ROUTINE_TYPES.includes(entry.type) &&
      last.entry.type === entry.type &&
      last.entry.outcome === entry.outcome;
    if (isMore) last.count += 1;
    else rows.push({ entry, count: 1 });
  }
  return rows;
}
