const SHOWN = 4;

function textOf(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

/** What a device said of itself, in few words; nobody has checked it. */
export function factsLine(facts: Record<string, unknown>): string {
  const { hostname, os, arch, model } = facts;
  const known = [textOf(hostname), textOf(model), textOf(os), textOf(arch)];
  const line = known.filter((one) => one !== undefined);
  if (line.length > 0) return line.join(" · ");
  return Object.entries(facts)
    .filter(([, value]) => typeof value === "string" || typeof value === "number")
    .slice(0, SHOWN)
    .map(([name, value]) => `${name} ${String(value)}`)
    .join(" · ");
}

/** By what the device came, to show where an operator looks it up. */
export function originOf(agent: {
  enrolled_by: string;
  token_id: string | null;
  token_revoked_at?: string | null;
}): { text: string; id: string | null; isRevoked: boolean } {
  const isRevoked = (agent.token_revoked_at ?? null) !== null;
  return agent.enrolled_by === "mtls"
    ? { text: "Manufacturer certificate", id: null, isRevoked }
    : { text: "Token", id: agent.token_id, isRevoked };
}
