const FIRST_MS = 500;
const LONGEST_MS = 15_000;

/** Full jitter: somewhere below a ceiling that doubles with every failure. */
export function backoffMs(failures: number, random: () => number = Math.random): number {
  const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(failures, 10));
  return FIRST_MS / 2 + random() * ceiling;
}
