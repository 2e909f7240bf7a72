import { ApiProblem, unreachable } from "@/api/problem";
import type { PackageDetail } from "@/api/resources";
import { renewSession } from "@/session/session";

const PATH = "/api/v1/packages";
const MEDIA_TYPE = "application/vnd.tensorguard.tgsp";

export interface Progress {
  sentBytes: number;
  isSent: boolean;
}

/**
 * Send a package. PUT, because sending the same file again changes nothing: after a cut the whole
 * upload is just repeated. (fetch tells nothing of how much was sent; XMLHttpRequest does.)
 * Throws ApiProblem, or DOMException "AbortError".
 */
export async function uploadPackage(
  file: File,
  onProgress: (progress: Progress) => void,
  stop: AbortSignal,
): Promise<PackageDetail> {
  const answer = await sendFile(file, onProgress, stop);
  if (answer.status !== 401 || !(await renewSession())) return read(answer);
  return read(await sendFile(file, onProgress, stop));
}

interface Answer {
  status: number;
  text: string;
}

function sendFile(
  file: File,
  onProgress: (progress: Progress) => void,
  stop: AbortSignal,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const abort = (): void => request.abort();
    request.open("PUT", PATH);
    request.setRequestHeader("Content-Type", MEDIA_TYPE);
    request.upload.addEventListener("progress", (event) => {
      onProgress({ sentBytes: event.loaded, isSent: event.loaded >= event.total });
    });
    request.addEventListener("load", () => {
      resolve({ status: request.status, text: request.responseText });
    });
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
    request.addEventListener("loadend", () => stop.removeEventListener("abort", abort));
    stop.addEventListener("abort", abort);
    onProgress({ sentBytes: 0, isSent: false });
    request.send(file);
  });
}

function read({ status, text }: Answer): PackageDetail {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    body = undefined;
  }
  if (status >= 200 && status < 300 && body !== undefined) return body as PackageDetail;
  if (typeof body === "object" && body !== null && "code" in body) {
    throw new ApiProblem(body as ConstructorParameters<typeof ApiProblem>[0]);
  }
  throw new ApiProblem({
    status,
    code: "unexpected-answer",
    detail: `The answer was ${status}.`,
    hint: "Something between this browser and the platform may limit how large a file can be.",
  });
}
