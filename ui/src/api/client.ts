import createClient from "openapi-fetch";

import { ApiProblem, problemOf, timedOut, unreachable } from "./problem";
import type { components, paths } from "./schema";
import { noteServerTime } from "@/time/clock";

export type Schemas = components["schemas"];

const TIMEOUT_MS = 20_000;
/** Key providers may be slow, and are asked again: the api gives them a minute. */
const PATIENT_MS = 65_000;

function timeoutOf(request: Request): number {
  const isOfKeys = new URL(request.url).pathname.startsWith("/api/v1/keys");
  return isOfKeys && request.method !== "GET" ? PATIENT_MS : TIMEOUT_MS;
}

type Renew = () => Promise<boolean>;
let renew: Renew = () => Promise.resolve(false);

/** Say who asks for the password when a session has ended: resolves to whether it is worth
 * sending the request again. */
export function onSessionEnded(handler: Renew): void {
  renew = handler;
}

/** What a request may lack although somebody is signed in: a code, or what makes codes. */
export const DEMANDS = ["step-up-required", "second-factor-missing"] as const;
export type Demand = (typeof DEMANDS)[number];
/** Set up, then step up, and once more where that took too long. */
const MOST_DEMANDS = 3;

type Meet = (demand: Demand) => Promise<boolean>;
let meet: Meet = () => Promise.resolve(false);

/** Say who asks for the second factor: resolves to whether it is worth sending again. */
export function onSecondFactorDemanded(handler: Meet): void {
  meet = handler;
}

/** Send a request; when its session has ended, or it takes the second factor, once more after
 * that. Nothing is lost that way: whoever waits for the answer just waits longer. Throws
 * ApiProblem where there is none. */
export async function send(request: Request): Promise<Response> {
  const again = request.clone();
  let response = await sendOnce(request);
  const isSignIn = new URL(request.url).pathname === "/api/v1/session";
  if (response.status === 401 && !isSignIn && (await renew())) {
    response = await sendOnce(again.clone());
  }
  for (let met = 0; met < MOST_DEMANDS && response.status === 403; met += 1) {
    const demand = await demandOf(response);
    if (demand === undefined || !(await meet(demand))) break;
    response = await sendOnce(again.clone());
  }
  return response;
}

async function demandOf(response: Response): Promise<Demand | undefined> {
  const problem = await problemOf(response.clone());
  return DEMANDS.find((one) => one === problem.code);
}

async function sendOnce(request: Request): Promise<Response> {
  try {
    const signal = AbortSignal.any([request.signal, AbortSignal.timeout(timeoutOf(request))]);
    const response = await fetch(new Request(request, { signal, credentials: "same-origin" }));
    noteServerTime(response.headers.get("date"));
    return response;
  } catch (error) {
    if (request.signal.aborted) throw error;
    if (error instanceof DOMException && error.name === "TimeoutError") throw timedOut();
    throw unreachable();
  }
}

export const api = createClient<paths>({ baseUrl: location.origin, fetch: send });

/** Return what was asked for. Throws ApiProblem. */
export async function unwrap<T>(
  answer: Promise<{ data?: T; error?: unknown; response: Response }>,
): Promise<T> {
  const { data, error, response } = await answer;
  if (response.ok) return data as T;
  throw toProblem(error, response);
}

/** As `unwrap`, with the ETag that an update has to show. */
export async function unwrapWithEtag<T>(
  answer: Promise<{ data?: T; error?: unknown; response: Response }>,
): Promise<{ value: T; etag: string }> {
  const { data, error, response } = await answer;
  if (!response.ok) throw toProblem(error, response);
  return { value: data as T, etag: response.headers.get("etag") ?? "" };
}

function toProblem(error: unknown, response: Response): ApiProblem {
  if (typeof error === "object" && error !== null && "code" in error && "detail" in error) {
    return new ApiProblem(error as Schemas["Problem"]);
  }
  return new ApiProblem({
    status: response.status,
    code: "unexpected-answer",
    detail: `The answer was ${response.status} ${response.statusText}`.trim() + ".",
    hint: "Something between this browser and the platform may have answered in its place.",
  });
}

export { problemOf };
