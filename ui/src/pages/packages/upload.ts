import type { DetailedError, Upload as TusUpload } from "tus-js-client";

import { api, type Schemas, unwrap } from "@/api/client";
import { ApiProblem, unreachable } from "@/api/problem";
import { renewSession } from "@/session/session";

export type UploadView = Schemas["UploadView"];

const ENDPOINT = "/api/v1/packages/uploads";
/** Whole parts of an S3 store; and what a proxy that holds requests back has to hold. */
const CHUNK_BYTES = 32 * 1024 * 1024;
const RETRY_DELAYS_MS = [0, 1000, 3000, 5000, 10_000, 20_000];

export interface Sending {
  /** Stop for now: what has come stays on the platform. */
  pause: () => Promise<void>;
  resume: () => void;
  /** Stop, and have the platform delete what has come. */
  cancel: () => Promise<void>;
}

export interface Listener {
  onProgress: (sentBytes: number) => void;
  /** The platform has all of it, and verifies it under this id. */
  onSent: (uploadId: string) => void;
  onError: (error: unknown) => void;
}

/**
 * Send a file by tus, or go on with what this browser has begun to send before: a cut, a pause and
 * a reload of the page lose nothing. (The file's name, size and date say that it is the same.)
 */
export async function sendFile(file: File, listener: Listener): Promise<Sending> {
  const { Upload } = await import("tus-js-client");
  const intent = crypto.randomUUID();
  const upload: TusUpload = new Upload(file, {
    endpoint: ENDPOINT,
    chunkSize: CHUNK_BYTES,
    retryDelays: RETRY_DELAYS_MS,
    metadata: { filename: file.name },
    removeFingerprintOnSuccess: true,
    // An upload whose answer was cut off is the one that the next try gets.
    onBeforeRequest: (request) => {
      if (request.getMethod() === "POST") request.setHeader("Idempotency-Key", intent);
    },
    onProgress: listener.onProgress,
    onSuccess: () => listener.onSent(idOf(upload)),
    onError: (error) => void recover(error),
  });

  async function recover(error: Error | DetailedError): Promise<void> {
    const problem = problemOf(error);
    if (problem.status === 401 && (await renewSession())) upload.start();
    else listener.onError(problem);
  }

  const [previous] = await upload.findPreviousUploads();
  if (previous !== undefined) upload.resumeFromPreviousUpload(previous);
  upload.start();
  return {
    pause: () => upload.abort(),
    resume: () => upload.start(),
    cancel: () => upload.abort(true),
  };
}

/** List what this user has begun to upload. */
export async function listUploads(): Promise<UploadView[]> {
  const page = await unwrap(api.GET("/api/v1/packages/uploads", { params: { query: {} } }));
  return page.items;
}

export async function getUpload(id: string): Promise<UploadView> {
  return unwrap(
    api.GET("/api/v1/packages/uploads/{upload_id}", { params: { path: { upload_id: id } } }),
  );
}

export async function discardUpload(id: string): Promise<void> {
  await unwrap(
    api.DELETE("/api/v1/packages/uploads/{upload_id}", {
      params: { path: { upload_id: id }, header: { "tus-resumable": "1.0.0" } },
    }),
  );
}

function idOf(upload: TusUpload): string {
  return (upload.url ?? "").split("/").at(-1) ?? "";
}

/** What a failed request means: the platform's own words, where it has answered. */
export function problemOf(error: Error | DetailedError): ApiProblem {
  const response = "originalResponse" in error ? error.originalResponse : null;
  if (response === null) return unreachable();
  try {
    const body: unknown = JSON.parse(response.getBody());
    if (typeof body === "object" && body !== null && "code" in body && "detail" in body) {
      return new ApiProblem(body as ConstructorParameters<typeof ApiProblem>[0]);
    }
  } catch {
    // Not JSON: said below.
  }
  return new ApiProblem({
    status: response.getStatus(),
    code: "unexpected-answer",
    detail: `The answer was ${response.getStatus()}.`,
    hint: "Something between this browser and the platform may limit how large a request can be.",
  });
}
