/** From the first day's beginning until before the day after the last, all in UTC. */
export interface Period {
  from: string;
  to: string;
}

export const PRESETS = [
  { name: "30d", text: "Last 30 days" },
  { name: "quarter", text: "This quarter" },
  { name: "last-quarter", text: "Last quarter" },
  { name: "own", text: "Other days" },
] as const;
export type Preset = (typeof PRESETS)[number]["name"];

const DAY_MS = 86_400_000;
const MINUTE_MS = 60_000;
/** As the api has it. */
const LONGEST_DAYS = 1096;

/** The moments that a choice means; undefined where days are missing or in the wrong order. The
 * last 30 days end with the present minute, so that a report is not another one each second. */
export function periodOf(
  preset: Preset,
  nowMs: number,
  first: string,
  last: string,
): Period | undefined {
  if (preset === "30d") {
    const end = Math.ceil(nowMs / MINUTE_MS) * MINUTE_MS;
    return between(end - 30 * DAY_MS, end);
  }
  if (preset === "own") {
    const start = dayOf(first);
    const end = dayOf(last);
    if (start === undefined || end === undefined || end < start) return undefined;
    const length = end - start + DAY_MS;
    return length > LONGEST_DAYS * DAY_MS ? undefined : between(start, end + DAY_MS);
  }
  const now = new Date(nowMs);
  const quarter = Math.floor(now.getUTCMonth() / 3) - (preset === "quarter" ? 0 : 1);
  const year = now.getUTCFullYear();
  return between(Date.UTC(year, quarter * 3, 1), Date.UTC(year, quarter * 3 + 3, 1));
}

/** The day of a moment, as a field of a form takes it. */
export function dayText(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}

function between(start: number, end: number): Period {
  return { from: new Date(start).toISOString(), to: new Date(end).toISOString() };
}

function dayOf(text: string): number | undefined {
  if (!/^\d{4}-\d{2}-\d{2}$/.test(text)) return undefined;
  const ms = Date.parse(`${text}T00:00:00Z`);
  return Number.isNaN(ms) ? undefined : ms;
}

/** Where a report is, in one of its forms. */
export function reportUrl(period: Period, fleet: string, format: "html" | "json"): string {
  const query = new URLSearchParams({ from: period.from, to: period.to, format });
  if (fleet !== "") query.set("fleet", fleet);
  return `/api/v1/compliance/report?${query.toString()}`;
}
