import createClient from "openapi-fetch";

import { send } from "./client";

/** What the api says of trust, until its generated types do: this file mirrors its route. */

type Moment = string;

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

interface Paths {
  "/api/v1/trust": {
    get: {
      parameters: { query?: never; header?: never; path?: never; cookie?: never };
      requestBody?: never;
      responses: { 200: { headers: object; content: { "application/json": Trust } } };
    };
  };
}

export const identity = createClient<Paths>({ baseUrl: location.origin, fetch: send });
