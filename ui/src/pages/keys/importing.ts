import type { Schemas } from "@/api/client";

export type ImportParameters = Schemas["ImportParametersView"];
export type Wrapped = { token: string; wrapped: string };

export const PARAMETERS_FILE = "params.json";
export const WRAPPED_FILE = "wrapped.json";
const LONGEST = 64 * 1024;

/** What `tensorguard keys wrap-for-import` takes, as a file. */
export function parametersFile(parameters: ImportParameters): string {
  return `${JSON.stringify(parameters, null, 1)}\n`;
}

/** The commands for the machine where the material is: to make it there, or to take what is. */
export function wrapCommands(provider: string): { file: string; make: string; take: string } {
  const file = provider === "azure" ? "kek.pem" : "kek.bin";
  const command = `tensorguard keys wrap-for-import ${PARAMETERS_FILE}`;
  return {
    file,
    make: `${command} --generate ${file} --out ${WRAPPED_FILE}`,
    take: `${command} --material ${file} --out ${WRAPPED_FILE}`,
  };
}

/** What the command has written, or what is wrong with it; `token` is known where the parameters
 * were asked for just now, and not by somebody before. */
export function parseWrapped(
  text: string,
  expected: { provider: string; key_id: string; token?: string },
): Wrapped | string {
  if (text.trim() === "") return `Choose ${WRAPPED_FILE}.`;
  if (text.length > LONGEST) return `That is no ${WRAPPED_FILE}: it is too long.`;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return `That is no ${WRAPPED_FILE}: it is not JSON.`;
  }
  if (typeof value !== "object" || value === null) return `That is no ${WRAPPED_FILE}.`;
  const { provider, key_id, token, wrapped } = value as Record<string, unknown>;
  if ("public_key_pem" in value) {
    return `That is ${PARAMETERS_FILE}. ${WRAPPED_FILE} is what the command makes of it.`;
  }
  if (typeof token !== "string" || typeof wrapped !== "string") return `That is no ${WRAPPED_FILE}.`;
  if (provider !== expected.provider || key_id !== expected.key_id) {
    return "It was wrapped for another key.";
  }
  if (expected.token !== undefined && token !== expected.token) {
    return `It was wrapped for an earlier ${PARAMETERS_FILE}: wrap it again, with the newest.`;
  }
  return { token, wrapped };
}

/** When material ends: the end of a day, as people mean it; null: never. Or what is wrong. */
export function endOf(day: string, nowMs: number): string | null | { error: string } {
  if (day === "") return null;
  const at = new Date(`${day}T23:59:59`);
  if (Number.isNaN(at.getTime())) return { error: "That is no day." };
  if (at.getTime() <= nowMs) return { error: "That day is over already." };
  return at.toISOString();
}
