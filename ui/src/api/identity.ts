import createClient from "openapi-fetch";

import { type Schemas, send } from "./client";

/** What the api says of makers' CAs and of trust, until its generated types do: this file mirrors
 * its routes. */

type Moment = string;

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

type Approval = Schemas["ApprovalView"];

interface Paths {
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
  "/api/v1/trust": Get<Trust>;
}

export const identity = createClient<Paths>({ baseUrl: location.origin, fetch: send });
