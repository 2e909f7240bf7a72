const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const number = new Intl.NumberFormat("en");
const timeOfDay = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const dayAndTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium" });

export function formatNumber(value: number): string {
  return number.format(value);
}

/** "3 agents", "1 agent": the words of the count's thing. */
export function countOf(count: number, one: string, many = `${one}s`): string {
  return `${formatNumber(count)} ${count === 1 ? one : many}`;
}

export function formatPercent(value: number | null | undefined, digits = 0): string {
  return value == null ? "–" : `${value.toFixed(digits)} %`;
}

export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

/** A length of time in its largest unit, or its two largest: "45 s", "3 min", "2 h 5 min". */
export function formatDuration(ms: number): string {
  if (ms < MINUTE) return `${Math.max(0, Math.floor(ms / SECOND))} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min`;
  if (ms < DAY) return twoUnits(ms, HOUR, "h", MINUTE, "min");
  if (ms < 60 * DAY) return twoUnits(ms, DAY, "d", HOUR, "h");
  return `${Math.floor(ms / DAY)} d`;
}

/** What is left of some minutes, as a clock shows it: "14:05". */
export function formatLeft(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / SECOND));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function twoUnits(ms: number, large: number, one: string, small: number, two: string): string {
  const rest = Math.floor((ms % large) / small);
  return `${Math.floor(ms / large)} ${one}` + (rest > 0 ? ` ${rest} ${two}` : "");
}

/** How long ago, or how soon, as people say it. */
export function formatAge(at: string | number, nowMs: number): string {
  const ms = nowMs - (typeof at === "number" ? at : Date.parse(at));
  if (Math.abs(ms) < 2 * SECOND) return "just now";
  return ms > 0 ? `${formatDuration(ms)} ago` : `in ${formatDuration(-ms)}`;
}

/** A moment, to the second, in this browser's time zone. */
export function formatMoment(at: string | number): string {
  return dayAndTime.format(new Date(at));
}

export function formatTimeOfDay(at: string | number): string {
  return timeOfDay.format(new Date(at));
}

export function formatDay(at: string | number): string {
  return day.format(new Date(at));
}

/** A text as a sentence begins; the api's own begin in the middle of one. */
export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The end of an id that tells it from its neighbours: UUIDv7 begin with the time. */
export function shortId(id: string): string {
  return id.length > 12 ? id.slice(-8) : id;
}

export function shortDigest(digest: string): string {
  return digest.slice(0, 12);
}

/** "rolling_back" and "already-installed" as words. */
export function words(identifier: string): string {
  const text = identifier.replaceAll(/[_-]/g, " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}
