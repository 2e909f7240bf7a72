/** Bytes, their spellings, and SHA-256 by this browser itself. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** This browser, or the way the page came (plain HTTP), lacks what verifying needs. */
export class Unsupported extends Error {}

/** WebCrypto. Throws Unsupported: browsers keep it from pages that came over plain HTTP. */
export function subtle(): SubtleCrypto {
  const found = globalThis.crypto?.subtle as SubtleCrypto | undefined;
  if (found === undefined) {
    throw new Unsupported(
      "This browser lets only pages that came over HTTPS (or from this machine) use cryptography.",
    );
  }
  return found;
}

export async function sha256(...parts: Bytes[]): Promise<Bytes> {
  return new Uint8Array(await subtle().digest("SHA-256", joined(parts)));
}

export function joined(parts: readonly Bytes[]): Bytes {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export function isSame(one: Bytes, other: Bytes): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

export function toHex(bytes: Bytes): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Undefined where the text is not lower-case hex. */
export function fromHex(text: string): Bytes | undefined {
  if (!/^(?:[0-9a-f]{2})*$/.test(text)) return undefined;
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

export function toBase64(bytes: Bytes): string {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

/** Undefined where the text is not the one base64 spelling of its bytes. */
export function fromBase64(text: string): Bytes | undefined {
  try {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    return toBase64(bytes) === text ? bytes : undefined;
  } catch {
    return undefined;
  }
}

export function ofText(text: string): Bytes {
  return new Uint8Array(new TextEncoder().encode(text));
}
