import { readonly, shallowRef } from "vue";

/** Heartbeats that were accepted, as the stream told, with the time when it did. */
export interface Told {
  at: number;
  count: number;
}

export const WINDOW_MS = 5 * 60_000;
const told = shallowRef<readonly Told[]>([]);

/** What was told within the last minutes. */
export const heartbeatsTold = readonly(told);

export function countHeartbeats(count: number, at = Date.now()): void {
  told.value = [...told.value.filter((one) => one.at > at - WINDOW_MS), { at, count }];
}

/** Heartbeats a second in each of the steps before `end`; undefined where nothing was told yet. */
export function ratesOf(
  all: readonly Told[],
  end: number,
  stepMs: number,
  steps: number,
): (number | undefined)[] {
  const first = all[0]?.at ?? Number.POSITIVE_INFINITY;
  return Array.from({ length: steps }, (_, place) => {
    const until = end - (steps - 1 - place) * stepMs;
    const since = until - stepMs;
    if (since < first) return undefined;
    let sum = 0;
    for (const one of all) if (one.at > since && one.at <= until) sum += one.count;
    return (sum * 1000) / stepMs;
  });
}
