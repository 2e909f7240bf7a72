export interface Token {
  kind: "key" | "string" | "number" | "word" | "mark";
  text: string;
}

const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(true|false|null)|([^"\d\-tfn]+|.)/gs;

/** Invisible characters that turn text round or hide it, made visible as their escapes. */
function visible(text: string): string {
  return text.replaceAll(
    /[\u200B-\u200F\u202A-\u202E\u2060-\u2069\uFEFF]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** JSON laid out for reading, in coloured pieces; what is no JSON stays as it is. */
export function tokensOf(text: string): Token[] {
  let laidOut: string;
  try {
    laidOut = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return [{ kind: "mark", text }];
  }
  const tokens: Token[] = [];
  for (const [, quoted, colon, figure, word, rest] of laidOut.matchAll(TOKEN)) {
    if (quoted !== undefined) {
      tokens.push({ kind: colon === undefined ? "string" : "key", text: visible(quoted) });
      if (colon !== undefined) tokens.push({ kind: "mark", text: colon });
    } else if (figure !== undefined) tokens.push({ kind: "number", text: figure });
    else if (word !== undefined) tokens.push({ kind: "word", text: word });
    else tokens.push({ kind: "mark", text: rest ?? "" });
  }
  return tokens;
}

const LONG = 400;
const KEPT = 120;

/** A value whose very long strings are cut for reading; they say how long they are. */
export function abridged(value: unknown): unknown {
  if (typeof value === "string" && value.length > LONG) {
    return `${value.slice(0, KEPT)}… (${value.length} characters)`;
  }
  if (Array.isArray(value)) return value.map(abridged);
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, abridged(one)]));
  }
  return value;
}
