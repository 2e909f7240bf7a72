import type { Role } from "./session";

export const ROLES: Record<Role, { label: string; text: string }> = {
  viewer: { label: "Viewer", text: "sees fleets, agents and deployments" },
  mlops: { label: "MLOps", text: "uploads packages, cuts releases, deploys" },
  compliance: { label: "Compliance", text: "reads the ledger, revokes agents" },
  admin: { label: "Administrator", text: "may do everything" },
};
export const ROLE_NAMES = Object.keys(ROLES) as Role[];
