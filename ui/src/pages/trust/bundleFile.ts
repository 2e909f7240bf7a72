import type { Schemas } from "@/api/client";

export type Envelope = Schemas["BundlePublish"]["envelope"];

const MOST_BYTES = 768 * 1024;

/** The signed bundle in a file of `trust sign`, or why there is none, in words. */
export function readBundleFile(text: string): { envelope: Envelope } | { error: string } {
  if (text.length > MOST_BYTES) return { error: "This file is too large for a trust bundle." };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { error: "This file is not JSON: choose the one that was drafted and signed." };
  }
  const envelope =
    typeof value === "object" && value !== null && "envelope" in value ? value.envelope : undefined;
  if (!isEnvelope(envelope)) {
    return { error: "This is no draft of a trust bundle: choose the file that was signed." };
  }
  if (envelope.signatures.length === 0) {
    return { error: "Nobody has signed this draft yet." };
  }
  return { envelope };
}

function isEnvelope(value: unknown): value is Envelope {
  return (
    typeof value === "object" &&
    value !== null &&
    "payload" in value &&
    typeof value.payload === "string" &&
    "payloadType" in value &&
    typeof value.payloadType === "string" &&
    "signatures" in value &&
    Array.isArray(value.signatures)
  );
}
