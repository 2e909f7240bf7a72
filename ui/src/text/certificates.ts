import type { Tone } from "@/components/UiBadge.vue";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** How soon a certificate has to end for the filter to show its agent. */
export const EXPIRIES = [
  { name: "expired", text: "Expired", ms: 0 },
  { name: "1d", text: "Expires within a day", ms: DAY_MS },
  { name: "7d", text: "Expires within 7 days", ms: 7 * DAY_MS },
  { name: "30d", text: "Expires within 30 days", ms: 30 * DAY_MS },
] as const;

/** The moment that a filter's name means; the minute's beginning, so that a list is not another
 * one with every second. */
export function expiresBefore(name: string | undefined, nowMs: number): string | undefined {
  const found = EXPIRIES.find((one) => one.name === name);
  if (found === undefined) return undefined;
  const minute = 60_000;
  return new Date(Math.floor(nowMs / minute) * minute + found.ms).toISOString();
}

/** How urgent a certificate's end is. Agents renew by themselves at two thirds of its life: what is
 * about to end was not renewed. */
export function expiryTone(notAfter: string, nowMs: number): Tone | undefined {
  const leftMs = Date.parse(notAfter) - nowMs;
  if (leftMs <= 0) return "bad";
  return leftMs < DAY_MS ? "warn" : undefined;
}
