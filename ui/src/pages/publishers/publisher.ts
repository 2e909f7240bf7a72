import type { Publisher } from "@/api/resources";
import type { Tone } from "@/components/UiBadge.vue";
import { countOf, formatDay, formatNumber } from "@/text/format";

const DAY_MS = 86_400_000;
/** How long before its end a publisher's successor should be there. */
export const SOON_MS = 30 * DAY_MS;
export const MOST_NAMES = 100;
const NAME = /^(\*|[a-z0-9][a-z0-9._-]{0,63}\*?)$/;

export interface StateText {
  text: string;
  tone: Tone;
}

/** Where a publisher stands, by the clock: what was read may be older than an end that has come. */
export function publisherState(
  one: Pick<Publisher, "revoked_at" | "not_before" | "not_after" | "succeeded_by">,
  nowMs: number,
): StateText {
  if (one.revoked_at !== null) return { text: "Revoked", tone: "bad" };
  const left = Date.parse(one.not_after) - nowMs;
  if (left <= 0) return { text: "Expired", tone: "quiet" };
  if (Date.parse(one.not_before) > nowMs) return { text: "Not yet valid", tone: "note" };
  if (left > SOON_MS) return { text: "Valid", tone: "ok" };
  return one.succeeded_by === null
    ? { text: "Ends soon", tone: "warn" }
    : { text: "Being replaced", tone: "note" };
}

/** Whether there is something left to decide about it. */
export function isOver(one: Pick<Publisher, "revoked_at" | "not_after">, nowMs: number): boolean {
  return one.revoked_at !== null || Date.parse(one.not_after) <= nowMs;
}

export function validityText(one: Pick<Publisher, "not_before" | "not_after">): string {
  return `${formatDay(one.not_before)} – ${formatDay(one.not_after)}`;
}

/** What of a publisher agents have heard, in a few words. */
export function beliefText(
  one: Pick<Publisher, "revoked_at" | "awaits_bundle" | "told_in" | "agents" | "agents_told">,
): string {
  if (one.awaits_bundle) return "Waits for the next trust bundle";
  if (one.told_in === null) return "No agent was told";
  if (one.agents === 0) return `In trust bundle ${one.told_in}`;
  const share = `${formatNumber(one.agents_told)} of ${countOf(one.agents, "agent")}`;
  return one.revoked_at === null ? `Believed by ${share}` : `Dropped by ${share}`;
}

/** The package names of a text field: by commas, spaces or lines. */
export function namesOf(text: string): string[] {
  return [...new Set(text.split(/[\s,]+/).filter((name) => name !== ""))];
}

export function namesError(text: string): string {
  const names = namesOf(text);
  if (names.length === 0) return "Name at least one package; * alone stands for all.";
  if (names.length > MOST_NAMES) return `At most ${MOST_NAMES} names.`;
  const wrong = names.find((name) => !NAME.test(name));
  return wrong === undefined
    ? ""
    : `“${wrong}” is neither a package name nor the start of one: a-z, 0-9, . _ - and * at the end.`;
}

export function keyError(pem: string): string {
  const text = pem.trim();
  if (text === "") return "Paste the file PREFIX.pub.";
  if (text.includes("PRIVATE KEY")) {
    return "This is a private key. It never leaves its owner: paste the public one, PREFIX.pub.";
  }
  return text.startsWith("-----BEGIN PUBLIC KEY-----") ? "" : "This is not a public key in PEM form.";
}

/** The first moment of a day as a date field names it, in this browser's time zone. */
export function dayBegins(day: string): string {
  return new Date(`${day}T00:00:00`).toISOString();
}

/** Its last second. */
export function dayEnds(day: string): string {
  return new Date(`${day}T23:59:59`).toISOString();
}

/** A moment's day, as a date field takes it. */
export function dayOf(ms: number): string {
  const at = new Date(ms);
  const two = (value: number): string => String(value).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** The day that lies so many days after a moment. */
export function dayAfter(ms: number, days: number): string {
  return dayOf(ms + days * DAY_MS);
}
