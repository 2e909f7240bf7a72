import { describe, expect, it, vi } from "vitest";

import { onSecondFactorDemanded, send } from "@/api/client";
import { MOST_SELECTED, useSelection } from "@/pages/enrollment/selection";
import { factsLine, originOf } from "@/pages/enrollment/origin";
import { parseSerials, pemError, proofCommands } from "@/pages/fleets/manufacturers";
import { agentQuery } from "@/pages/agents/filters";
import { actorOf, approvalState, isApproval, kindText, subjectOf } from "@/text/approvals";
import { expiresBefore, expiryTone } from "@/text/certificates";
import { formatLeft } from "@/text/format";
import { abridged } from "@/text/json";

const NOW = Date.parse("2026-05-01T12:00:30Z");
const PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

function problem(code: string, status = 403): Response {
  const body = { code, detail: code, hint: "", status };
  return new Response(JSON.stringify(body), { status });
}

function answering(...answers: Response[]): string[] {
  const bodies: string[] = [];
  vi.stubGlobal("fetch", async (request: Request) => {
    bodies.push(await request.text());
    return answers.shift() ?? new Response("{}");
  });
  return bodies;
}

function asked(): Request {
  return new Request("http://localhost/api/v1/approvals/1/approve", {
    method: "POST",
    body: '{"reason":"typed with care"}',
  });
}

describe("a request that takes the second factor", () => {
  it("is sent again, whole, once a code was shown", async () => {
    const demands: string[] = [];
    const bodies = answering(problem("second-factor-missing"), problem("step-up-required"));
    onSecondFactorDemanded((demand) => {
      demands.push(demand);
      return Promise.resolve(true);
    });
    expect((await send(asked())).status).toBe(200);
    expect(demands).toEqual(["second-factor-missing", "step-up-required"]);
    expect(bodies).toEqual(Array(3).fill('{"reason":"typed with care"}'));
  });

  it("ends with what the api said when somebody gives up, and its body is still there", async () => {
    const bodies = answering(problem("step-up-required"));
    onSecondFactorDemanded(() => Promise.resolve(false));
    const response = await send(asked());
    expect((await response.json()).code).toBe("step-up-required");
    expect(bodies).toHaveLength(1);
  });

  it("is not asked for without end", async () => {
    const bodies = answering(...Array.from({ length: 9 }, () => problem("step-up-required")));
    onSecondFactorDemanded(() => Promise.resolve(true));
    expect((await send(asked())).status).toBe(403);
    expect(bodies).toHaveLength(4);
  });

  it("is another thing than a role without the permission", async () => {
    answering(problem("forbidden"));
    const meet = vi.fn<() => Promise<boolean>>(() => Promise.resolve(true));
    onSecondFactorDemanded(meet);
    expect((await send(asked())).status).toBe(403);
    expect(meet).not.toHaveBeenCalled();
  });
});

describe("approvals", () => {
  const pending = { state: "pending", expires_at: "2026-05-01T12:00:30Z" } as const;

  it.each([
    [14 * 60_000 + 5000, "14:05"],
    [999, "0:01"],
    [0, "0:00"],
    [-5, "0:00"],
  ])("%d ms left are %s", (ms, text) => {
    expect(formatLeft(ms)).toBe(text);
  });

  it("are over when their time is, before anybody has told", () => {
    expect(approvalState(pending, NOW - 1)).toBe("pending");
    expect(approvalState(pending, NOW)).toBe("expired");
    expect(approvalState({ ...pending, state: "approved" }, NOW)).toBe("approved");
  });

  it("name what they are about", () => {
    expect(subjectOf({ request: { fleet: "f", reason: "r" }, fleet: "f" })).toBe("f");
    expect(subjectOf({ request: { version: 4 }, fleet: null })).toBe("version 4");
    expect(subjectOf({ request: { name: "Maker", fleet: "f" }, fleet: "f" })).toBe("Maker");
    expect(subjectOf({ request: {}, fleet: null })).toBe("");
  });

  it("of a kind that nobody has named yet have a title", () => {
    expect(kindText("key.destroy")).toEqual({ title: "Key destroy", effect: "" });
    expect(kindText("fleet.revoke").effect).toContain("for good");
  });

  it("are told from receipts", () => {
    expect(isApproval({ request_sha256: "00" })).toBe(true);
    expect(isApproval({ seq: 1, fronts: [] })).toBe(false);
  });

  it("are asked for by accounts, or by who is no account", () => {
    const id = "01a20514-0823-7da9-b8be-302af634c713";
    expect(actorOf(id)).toEqual({ kind: "account", id });
    expect(actorOf("command-line").id).toBe("the platform's machine");
    expect(actorOf("hub")).toEqual({ kind: "system", id: "hub" });
  });

  it("show long texts cut, and say how long they were", () => {
    const value = { version: 4, envelope: { payload: "x".repeat(1000), signatures: ["y"] } };
    expect(abridged(value)).toEqual({
      version: 4,
      envelope: { payload: `${"x".repeat(120)}… (1000 characters)`, signatures: ["y"] },
    });
  });
});

describe("certificates that end", () => {
  it("are asked for by a moment that does not move with every second", () => {
    expect(expiresBefore("expired", NOW)).toBe("2026-05-01T12:00:00.000Z");
    expect(expiresBefore("7d", NOW)).toBe("2026-05-08T12:00:00.000Z");
    expect(expiresBefore("7d", NOW + 20_000)).toBe(expiresBefore("7d", NOW));
    expect(expiresBefore("constructor", NOW)).toBeUndefined();
    expect(expiresBefore(undefined, NOW)).toBeUndefined();
  });

  it("are in the list's query", () => {
    expect(agentQuery({ expires: "1d", sort: "expiry" }, NOW)).toMatchObject({
      certificate_expires_before: "2026-05-02T12:00:00.000Z",
      sort: "expiry",
    });
  });

  it("are marked when they have ended or were not renewed in time", () => {
    expect(expiryTone("2026-05-01T12:00:30Z", NOW)).toBe("bad");
    expect(expiryTone("2026-05-02T12:00:29Z", NOW)).toBe("warn");
    expect(expiryTone("2026-05-02T12:00:30Z", NOW)).toBeUndefined();
  });
});

describe("devices that wait", () => {
  it("are chosen up to the limit of one request, and over pages", () => {
    const selection = useSelection();
    selection.set(Array.from({ length: MOST_SELECTED + 20 }, (_, n) => `id-${n}`), true);
    expect(selection.ids.value).toHaveLength(MOST_SELECTED);
    selection.set(["id-0", "nobody"], false);
    expect(selection.ids.value).toHaveLength(MOST_SELECTED - 1);
    expect(selection.has("id-0")).toBe(false);
    selection.clear();
    expect(selection.ids.value).toEqual([]);
  });

  it("say of themselves what they said, in few words", () => {
    expect(factsLine({ os: "Linux", arch: "x86_64", hostname: "h", timezone: "UTC" })).toBe(
      "h · Linux · x86_64",
    );
    expect(factsLine({ cores: 4, nested: { a: 1 } })).toBe("cores 4");
    expect(factsLine({})).toBe("");
  });

  it("came by a token or a maker", () => {
    expect(originOf({ enrolled_by: "token", token_id: "t", token_revoked_at: null })).toEqual({
      text: "Token",
      id: "t",
      isRevoked: false,
    });
    expect(originOf({ enrolled_by: "mtls", token_id: null, token_revoked_at: null }).id).toBeNull();
  });
});

describe("a maker's CA", () => {
  it("is one certificate and no key", () => {
    expect(pemError(PEM)).toBe("");
    expect(pemError("hello")).toContain("Paste a certificate");
    expect(pemError(PEM + PEM)).toContain("more than one");
    expect(pemError(`${PEM}-----BEGIN EC PRIVATE KEY-----`)).toContain("private key");
  });

  it("is proven by commands that name the challenge once", () => {
    const commands = proofCommands("tg-challenge-1");
    expect(commands.filter((line) => line.includes("tg-challenge-1"))).toEqual([
      'openssl req -new -key proof.key -subj "/CN=tg-challenge-1" -out proof.csr',
    ]);
  });

  it("has serials, each once, or none", () => {
    expect(parseSerials(" A \n\nB, A,")).toEqual(["A", "B"]);
    expect(parseSerials(" \n")).toBeNull();
  });
});
