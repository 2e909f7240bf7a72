const UNITS_S: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };
const PART = /(\d+(?:\.\d+)?)\s*(d|h|min|m|s)?/y;

/** Read "5m", "1h 30m", "90s" or "45" (seconds); undefined where it is none of these. */
export function parseDuration(text: string): number | undefined {
  const trimmed = text.trim().toLowerCase();
  if (trimmed === "") return undefined;
  let seconds = 0;
  PART.lastIndex = 0;
  while (PART.lastIndex < trimmed.length) {
    const found = PART.exec(trimmed);
    if (found === null) return undefined;
    seconds += Number(found[1]) * (UNITS_S[found[2] === "min" ? "m" : (found[2] ?? "s")] ?? 1);
    while (trimmed[PART.lastIndex] === " ") PART.lastIndex += 1;
  }
  return Number.isInteger(seconds) ? seconds : undefined;
}

/** As people read it: "1 h 30 min". */
export function tellDuration(seconds: number): string {
  return showDuration(seconds).replaceAll(/([dhms])/g, (unit) => (unit === "m" ? " min" : ` ${unit}`));
}

/** The shortest text that is read as so many seconds: "1h 30m". */
export function showDuration(seconds: number): string {
  if (seconds === 0) return "0s";
  let left = seconds;
  const parts: string[] = [];
  for (const [unit, size] of Object.entries(UNITS_S).reverse()) {
    const count = Math.floor(left / size);
    if (count > 0) parts.push(`${count}${unit}`);
    left -= count * size;
  }
  return parts.join(" ");
}
