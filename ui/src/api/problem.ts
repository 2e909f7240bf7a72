import type { components } from "./schema";

type ProblemBody = components["schemas"]["Problem"];

/** An error that says what is wrong and what to do: the api's (RFC 9457), or the way to it. */
export class ApiProblem extends Error {
  readonly code: string;
  readonly hint: string;
  readonly status: number;
  readonly fields: ReadonlyMap<string, string>;

  constructor(
    body: Pick<ProblemBody, "code" | "detail" | "hint" | "status"> &
      Partial<Pick<ProblemBody, "errors">>,
  ) {
    super(body.detail);
    this.name = "ApiProblem";
    this.code = body.code;
    this.hint = body.hint;
    this.status = body.status;
    this.fields = new Map(
      (body.errors ?? []).map((field) => [field.location.slice(1).join("."), field.message]),
    );
  }

  /** Whether asking once more may help without anybody changing anything. */
  get isPassing(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export function isProblem(error: unknown, code?: string): error is ApiProblem {
  return error instanceof ApiProblem && (code === undefined || error.code === code);
}

export function unreachable(): ApiProblem {
  return new ApiProblem({
    status: 0,
    code: "unreachable",
    detail: navigator.onLine ? "The platform does not answer." : "This browser is offline.",
    hint: navigator.onLine
      ? "Is it running? On its machine, 'tensorguard up' starts it."
      : "It is read again as soon as the network is back.",
  });
}

export function timedOut(): ApiProblem {
  return new ApiProblem({
    status: 0,
    code: "timed-out",
    detail: "The platform took too long to answer.",
    hint: "Try again; if it stays, look at the platform's log.",
  });
}

/** Read an answer that is not a success, whatever it is: a proxy may have written it. */
export async function problemOf(response: Response): Promise<ApiProblem> {
  const text = await response.text().catch(() => "");
  try {
    const body: unknown = JSON.parse(text);
    if (isProblemBody(body)) return new ApiProblem(body);
  } catch {
    // Not JSON: said below.
  }
  return new ApiProblem({
    status: response.status,
    code: "unexpected-answer",
    detail: `The answer was ${response.status} ${response.statusText}`.trim() + ".",
    hint: "Something between this browser and the platform may have answered in its place.",
  });
}

function isProblemBody(body: unknown): body is ProblemBody {
  return typeof body === "object" && body !== null && "code" in body && "detail" in body;
}
