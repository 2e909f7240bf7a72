import { type Entry, summaryOf } from "@/text/ledger";

/** Entries that say the same of several, as one line: a hundred enrolments are one piece of news. */
export interface EventGroup {
  /** The newest of them. */
  newest: Entry;
  count: number;
  /** One entry for each thing that it happened to, the newest first. */
  subjects: Entry[];
  /** What all of them add; empty where they differ. */
  summary: string;
}

/** Group entries by what happened, where, and how it ended; the newest group comes first. */
export function groupEvents(newestFirst: readonly Entry[]): EventGroup[] {
  const groups = new Map<string, EventGroup>();
  for (const entry of newestFirst) {
    const key = [entry.type, entry.outcome, entry.fleet ?? ""].join("\n");
    const summary = summaryOf(entry.details);
    const known = groups.get(key);
    if (known === undefined) {
      groups.set(key, { newest: entry, count: 1, subjects: [entry], summary });
      continue;
    }
    known.count += 1;
    if (known.summary !== summary) known.summary = "";
    if (!known.subjects.some(({ subject }) => subject.id === entry.subject.id)) {
      known.subjects.push(entry);
    }
  }
  return [...groups.values()];
}
