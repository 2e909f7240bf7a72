import createClient from "openapi-fetch";

import { type Schemas, send } from "./client";

/** What the api says of identity, until its generated types do: this file mirrors its routes. */

export type Moment = string;

export interface AgentGains {
  enrolled_by: string;
  certificate_not_after: Moment | null;
  move_to: string | null;
}

export interface AgentDetailGains extends AgentGains {
  released_at: Moment | null;
  token_revoked_at: Moment | null;
}

export interface ReceiptGains {
  not_answering: string[];
}

export interface AgentQueryGains {
  certificate_expires_before?: string;
  enrolled_by?: "token" | "mtls";
}

export type ApprovalState = "pending" | "approved" | "rejected" | "expired" | "failed";

export interface Approval {
  id: string;
  kind: string;
  fleet: string | null;
  request: Record<string, unknown>;
  request_sha256: string;
  state: ApprovalState;
  requested_at: Moment;
  requested_by: string;
  expires_at: Moment;
  decided_at: Moment | null;
  decided_by: string | null;
  reason: string | null;
  result: Record<string, unknown> | null;
  yours: boolean;
  may_decide: boolean;
  why_not: string | null;
}

export type RecoveryState = "pending" | "approved" | "rejected" | "expired";

export interface Recovery {
  id: string;
  agent_id: string;
  agent_name: string;
  fleet: string;
  serial: string;
  expired_at: Moment;
  peer: string;
  state: RecoveryState;
  reason: string | null;
  requested_at: Moment;
  expires_at: Moment;
  decided_at: Moment | null;
  decided_by: string | null;
}

export interface ManufacturerCa {
  id: string;
  fleet: string;
  name: string;
  state: "unproven" | "active" | "revoked";
  approval: "auto" | "manual";
  serials_count: number | null;
  tags: Record<string, string>;
  agents: number;
  max_agents: number;
  challenge: string | null;
  challenge_expires_at: Moment;
  not_after: Moment;
  created_at: Moment;
  revoked_at: Moment | null;
}

export interface ManufacturerCaDetail extends ManufacturerCa {
  serials: string[] | null;
}

export interface NewManufacturerCa {
  name: string;
  certificate: string;
  approval: "auto" | "manual";
  serials: string[] | null;
  max_agents: number;
  tags: Record<string, string>;
}

export interface FleetRevocation {
  id: string;
  fleet: string;
  reason: string;
  agents: number;
  revoked_at: Moment;
  revoked_by: string;
  approved_by: string | null;
  denied_at_every_front: boolean;
  waiting_for: string[];
  not_answering: string[];
  disconnected: number;
  took_ms: number | null;
  state: "complete" | "partial";
}

export interface Trust {
  version: number;
  issued_at: Moment;
  expires_at: Moment;
  root_threshold: number;
  roots: string[];
  cas: {
    spki_sha256: string;
    state: string;
    not_before: Moment;
    not_after: Moment;
    agents: number;
  }[];
  agents_by_version: { version: number | null; agents: number }[];
}

export interface Decisions {
  decided: string[];
  failed: { id: string; code: string; detail: string }[];
}

export type SecondFactor = "none" | "pending" | "active";

export interface SessionGains {
  second_factor: SecondFactor;
  stepped_up_until: Moment | null;
}

interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

interface Answers<T> {
  200: { headers: Record<string, unknown>; content: { "application/json": T } };
}

interface Operation<T, Query, Path extends string> {
  parameters: {
    query?: Query;
    header?: never;
    cookie?: never;
  } & ([Path] extends [never] ? { path?: never } : { path: Record<Path, string> });
  responses: Answers<T>;
}

interface Get<T, Query = object, Path extends string = never> {
  get: Operation<T, Query, Path> & { requestBody?: never };
}

interface Post<Body, T, Path extends string = never> {
  post: Operation<T, never, Path> & { requestBody: { content: { "application/json": Body } } };
}

interface Delete<T, Path extends string = never, Body = undefined> {
  delete: Operation<T, never, Path> &
    (Body extends undefined
      ? { requestBody?: never }
      : { requestBody: { content: { "application/json": Body } } });
}

interface Listing {
  limit?: number;
  cursor?: string;
}
type Detail = Schemas["AgentDetail"];
type Nothing = Record<string, never>;
interface Reason {
  reason: string;
}

interface Paths {
  "/api/v1/agents/{agent_id}/approve": Post<Nothing, Detail, "agent_id">;
  "/api/v1/agents/{agent_id}/reject": Post<Reason, Detail, "agent_id">;
  "/api/v1/agents/{agent_id}/release": Post<Reason, Detail, "agent_id">;
  "/api/v1/agents/{agent_id}/move": Post<{ fleet: string }, Detail, "agent_id"> &
    Delete<Detail, "agent_id">;
  "/api/v1/agents/{agent_id}/revoke": Post<Reason, Schemas["ReceiptView"] | Approval, "agent_id">;
  "/api/v1/agents/decide": Post<
    { ids: string[]; decision: "approve" | "reject"; reason?: string },
    Decisions
  >;
  "/api/v1/fleets/{fleet}/revoke": Post<Reason, Approval, "fleet">;
  "/api/v1/fleets/{fleet}/revocations": Get<Page<FleetRevocation>, Listing, "fleet">;
  "/api/v1/fleets/{fleet}/manufacturer-cas": Get<Page<ManufacturerCa>, Listing, "fleet"> &
    Post<NewManufacturerCa, ManufacturerCa, "fleet">;
  "/api/v1/fleets/{fleet}/manufacturer-cas/{manufacturer_ca_id}": Delete<
    never,
    "fleet" | "manufacturer_ca_id"
  > &
    Get<ManufacturerCaDetail, object, "fleet" | "manufacturer_ca_id">;
  "/api/v1/fleets/{fleet}/manufacturer-cas/{manufacturer_ca_id}/prove": Post<
    { certificate: string },
    Approval,
    "fleet" | "manufacturer_ca_id"
  >;
  "/api/v1/recoveries": Get<Page<Recovery>, Listing & { state?: RecoveryState }>;
  "/api/v1/recoveries/{recovery_id}/approve": Post<Nothing, Recovery, "recovery_id">;
  "/api/v1/recoveries/{recovery_id}/reject": Post<Reason, Recovery, "recovery_id">;
  "/api/v1/approvals": Get<Page<Approval>, Listing & { state?: ApprovalState }>;
  "/api/v1/approvals/{approval_id}": Get<Approval, object, "approval_id">;
  "/api/v1/approvals/{approval_id}/approve": Post<Nothing, Approval, "approval_id">;
  "/api/v1/approvals/{approval_id}/reject": Post<Reason, Approval, "approval_id">;
  "/api/v1/session/second-factor": Post<{ password: string }, { secret: string; uri: string }> &
    Delete<never, never, { code: string }>;
  "/api/v1/session/second-factor/confirm": Post<{ code: string }, never>;
  "/api/v1/session/step-up": Post<{ code: string }, { stepped_up_until: Moment }>;
  "/api/v1/users/{user_id}/second-factor": Delete<never, "user_id">;
  "/api/v1/publishers/{kid}/revoke": Post<Reason, Approval, "kid">;
  "/api/v1/trust": Get<Trust>;
}

export const identity = createClient<Paths>({ baseUrl: location.origin, fetch: send });
