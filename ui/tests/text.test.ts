import { readFileSync } from "node:fs";

import { describe, expect, it } from "vitest";

import { Intent } from "@/api/intent";
import { ApiProblem, problemOf } from "@/api/problem";
import { seriesOf } from "@/pages/agent/chart";
import { agentQuery } from "@/pages/agents/filters";
import { isLoopback, joinUrlOf } from "@/pages/fleets/joinString";
import { slugOf } from "@/pages/fleets/slug";
import { parseTags } from "@/pages/fleets/tags";
import { groupEvents } from "@/pages/overview/eventGroups";
import { stepStates, STEPS, wordsOf } from "@/pages/packages/verification";
import { badText, progressOf } from "@/text/deployments";
import { formatAge, formatBytes, formatDuration, shortId, words } from "@/text/format";
import { tokensOf } from "@/text/json";
import { type Entry, readEntry, sentenceOf, summaryOf } from "@/text/ledger";
import { bandOf } from "@/text/trust";

describe("figures", () => {
  it.each([
    [0, "0 s"],
    [59_999, "59 s"],
    [60_000, "1 min"],
    [3_600_000, "1 h"],
    [7_500_000, "2 h 5 min"],
    [90_000_000, "1 d 1 h"],
    [90 * 86_400_000, "90 d"],
  ])("a length of %d ms is %s", (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });

  it("an age knows past and future, and does not flicker around now", () => {
    const now = Date.parse("2026-05-01T12:00:00Z");
    expect(formatAge("2026-05-01T11:59:00Z", now)).toBe("1 min ago");
    expect(formatAge("2026-05-01T12:00:01Z", now)).toBe("just now");
    expect(formatAge("2026-05-02T12:00:00Z", now)).toBe("in 1 d");
  });

  it("bytes have a unit that keeps them legible", () => {
    expect([0, 1023, 1024, 3_167_576, 5 * 1024 ** 3].map(formatBytes)).toEqual([
      "0 B",
      "1023 B",
      "1.0 KiB",
      "3.0 MiB",
      "5.0 GiB",
    ]);
  });

  it("an id is shortened to the end that tells it from its neighbours", () => {
    expect(shortId("01a20514-0823-7da9-b8be-302af634c713")).toBe("f634c713");
  });

  it("an identifier is read as words", () => {
    expect(words("rolling_back")).toBe("Rolling back");
  });
});

describe("what people type", () => {
  it.each([
    ["Hospital A", "hospital-a"],
    ["  Fábrica № 2!  ", "fabrica-no-2"],
    ["<img src=x>", "img-src-x"],
    ["日本", ""],
    ["x".repeat(39) + " y", "x".repeat(39)],
  ])("%j becomes the slug %j", (name, slug) => {
    expect(slugOf(name)).toBe(slug);
  });

  it("tags are read with blanks around them", () => {
    expect(parseTags(" gpu = true , region=us-east,\nempty=")).toEqual({
      tags: { gpu: "true", region: "us-east", empty: "" },
      error: "",
    });
  });

  it.each(["gpu", "a=b=c", "<b>=1", "a=1,a=2"])("%j is no list of tags", (text) => {
    expect(parseTags(text).error).not.toBe("");
  });

  it("the same intent keeps its key, another one has its own", () => {
    const intent = new Intent();
    const first = intent.keyFor({ name: "a" });
    expect(intent.keyFor({ name: "a" })).toBe(first);
    const second = intent.keyFor({ name: "b" });
    expect(second).not.toBe(first);
    intent.done();
    expect(intent.keyFor({ name: "b" })).not.toBe(second);
  });
});

describe("what the URL asks for", () => {
  it("is passed on where the api knows it", () => {
    expect(
      agentQuery({ q: "pump", fleet: "f", presence: "online", trust: "watch", sort: "-cpu" }, 0),
    ).toMatchObject({
      q: "pump",
      fleet: "f",
      presence: "online",
      trust_at_least: 50,
      trust_below: 80,
      sort: "-cpu",
    });
  });

  it("is left out where somebody made it up", () => {
    const query = agentQuery({ presence: "asleep", trust: "constructor", sort: "toString" }, 0);
    expect(Object.values(query).filter((value) => value !== undefined)).toEqual([]);
  });

  it("has bands that leave no score out and none twice", () => {
    for (let score = 0; score <= 100; score += 1) {
      const bands = ["trusted", "watch", "quarantined", "compromised"].filter((trust) => {
        const { trust_at_least: least, trust_below: below } = agentQuery({ trust }, 0);
        return score >= (least ?? 0) && score < (below ?? 101);
      });
      expect(bands).toEqual([bandOf(score)]);
    }
  });
});

describe("a verification", () => {
  it("shows what passed, what failed and what was not looked at", () => {
    const states = stepStates({ phase: "failed", code: "bad-signature" });
    expect(states).toEqual(["passed", "passed", "failed", ...STEPS.slice(3).map(() => "skipped")]);
  });

  it("has passed what stands before the payload as soon as that is read", () => {
    const begun = stepStates({ phase: "verifying", verifiedBytes: 0 });
    expect(begun).toEqual(["passed", "working", ...STEPS.slice(2).map(() => "waiting")]);
    const read = stepStates({ phase: "verifying", verifiedBytes: 1 });
    expect(read.slice(0, 5)).toEqual(["passed", "passed", "passed", "passed", "working"]);
  });

  it("says that the transfer failed where no step is to blame", () => {
    expect(stepStates({ phase: "failed", code: "unreachable" })[0]).toBe("failed");
  });

  it("gives each refusal to one step", () => {
    const codes = STEPS.flatMap((step) => Object.keys(step.codes));
    expect(new Set(codes).size).toBe(codes.length);
  });

  it("has a step and words for whatever the platform may refuse a package for", () => {
    // What only builders and devices meet, who open packages and write their files.
    const elsewhere = new Set(
      (
        "wrong-package wrong-target wrong-fleet selector-mismatch wrong-hardware agent-too-old " +
        "seq-too-low output-error output-exists out-of-space sealed-at-rest source-refused " +
        "source-changed bad-key file-failed"
      ).split(" "),
    );
    const source = readFileSync("../tensorguard/tgsp/errors.py", "utf8");
    const codes = [...source.matchAll(/^ {4}code = "(.+)"$/gm)].map(([, code]) => code ?? "");
    expect(codes.length).toBeGreaterThan(40);
    expect(codes.filter((code) => !elsewhere.has(code) && !wordsOf(code))).toEqual([]);
    expect([...elsewhere].filter((code) => !codes.includes(code))).toEqual([]);
  });
});

describe("the ledger", () => {
  it("reads an entry from its exact bytes", async () => {
    const text = '{"actor":{"id":"platform","kind":"system"},"details":{"reason":"ä"},"id":"1","outcome":"success","subject":{"id":"a","kind":"agent"},"time":"2026-01-01T00:00:00Z","type":"agent.revoked"}';
    const bytes = new TextEncoder().encode(text);
    const entry = readEntry({
      epoch: 1,
      leaf_index: 5,
      leaf_hash: "00",
      entry: btoa(String.fromCharCode(...bytes)),
      subject_name: "Gate 7",
      actor_name: null,
    });
    expect(entry.text).toBe(text);
    expect(entry.names).toEqual({ subject: "Gate 7", actor: null });
    expect(entry.details).toEqual({ reason: "ä" });
    expect(summaryOf(entry.details)).toBe("ä");
    expect(summaryOf({ reason: "revoked", count: 1 })).toBe("revoked");
    expect(summaryOf({ reason: "revoked", count: 3 })).toBe("revoked · 3 times");
  });

  it("has words for a type that it does not know", () => {
    expect(sentenceOf("agent.reported.model.decrypted")).toBe("Agent reports: model decrypted");
    expect(sentenceOf("sink.gap-found")).toBe("Sink gap found");
  });

  it("lays JSON out without losing or adding a character", () => {
    const value = { a: ['<img onerror="x">', 1.5e-7, true, null, "t\\\"f: 3"], "k:": {} };
    const text = tokensOf(JSON.stringify(value)).map((token) => token.text).join("");
    expect(text).toBe(JSON.stringify(value, null, 2));
  });

  it("makes characters visible that would turn text round", () => {
    const text = tokensOf(JSON.stringify("\u202Eevil")).map((token) => token.text).join("");
    expect(text).toBe(String.raw`"\u202eevil"`);
  });

  it("shows what is no JSON as it is", () => {
    expect(tokensOf("<b>")).toEqual([{ kind: "mark", text: "<b>" }]);
  });
});

describe("telemetry", () => {
  const point = (second: number) => ({
    at: new Date(second * 1000).toISOString(),
    heartbeats: 1,
    degraded: 0,
    errors: 0,
    cpu_percent: second,
    cpu_percent_min: second,
    cpu_percent_max: second,
    memory_percent: 0,
    memory_percent_min: 0,
    memory_percent_max: 0,
    disk_percent: 0,
    disk_percent_min: 0,
    disk_percent_max: 0,
    temperature_c: null,
    temperature_c_min: null,
    temperature_c_max: null,
  });

  it("has a hole where heartbeats are missing", () => {
    const series = seriesOf([0, 10, 20, 100, 110].map(point), "cpu_percent", 1000);
    expect(series.map(([, value]) => value)).toEqual([0, 10, 20, null, 100, 110]);
  });

  it("has none where they are as far apart as usual", () => {
    const series = seriesOf([0, 60, 120, 180].map(point), "cpu_percent", 1000);
    expect(series).toHaveLength(4);
  });
});

describe("a problem", () => {
  it("is read from the api's answer, its fields by name", async () => {
    const body = {
      type: "/problems/validation-failed",
      title: "",
      status: 422,
      detail: "body.slug: no",
      code: "validation-failed",
      hint: "Correct it.",
      errors: [{ location: ["body", "slug"], message: "no", type: "x" }],
    };
    const problem = await problemOf(Response.json(body, { status: 422 }));
    expect(problem).toBeInstanceOf(ApiProblem);
    expect(problem.fields.get("slug")).toBe("no");
    expect(problem.isPassing).toBe(false);
  });

  it("is told where something else answers in the api's place", async () => {
    const problem = await problemOf(new Response("<html>Bad Gateway", { status: 502 }));
    expect(problem.code).toBe("unexpected-answer");
    expect(problem.isPassing).toBe(true);
  });
});

describe("a deployment", () => {
  it("counts only whom it concerns", () => {
    expect(
      progressOf({ succeeded: 3, already_installed: 1, failed: 2, pending: 4, excluded: 9, downloading: 1 }),
    ).toEqual({ of: 11, done: 4, atWork: 1, bad: 2, pending: 4 });
  });

  it("says failed and lost for what they are", () => {
    expect(badText({ failed: 2, succeeded: 5 })).toBe("2 failed");
    expect(badText({ lost: 1000, timed_out: 1 })).toBe("1,001 lost");
    expect(badText({ failed: 1, rejected: 1, lost: 1 })).toBe("3 failed or lost");
  });
});

describe("a join string", () => {
  const join = (value: unknown): string =>
    `tg1.${btoa(JSON.stringify(value)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;

  it("tells where it leads", () => {
    expect(joinUrlOf(join({ url: "https://10.0.0.5:8443", token: "???>>>" }))).toBe(
      "https://10.0.0.5:8443",
    );
    expect(joinUrlOf("tg1.@@@")).toBe("");
    expect(joinUrlOf("tg1.AAAA")).toBe("");
  });

  it.each([
    ["https://127.0.0.1:8443", true],
    ["https://localhost:8443", true],
    ["https://[::1]:8443", true],
    ["https://platform.example.org:8443", false],
    ["https://10.127.0.1", false],
    ["", false],
  ])("%s stays on its machine: %s", (url, isLocal) => {
    expect(isLoopback(url)).toBe(isLocal);
  });
});

describe("security events", () => {
  const entry = (type: string, subject: string, more: Partial<Entry> = {}): Entry => ({
    ...({ outcome: "success", fleet: "f", details: {} } as Entry),
    type,
    subject: { kind: "agent", id: subject },
    ...more,
  });

  it("that say the same of several are one line, with each of them once", () => {
    const groups = groupEvents([
      entry("agent.enrolled", "c"),
      entry("agent.denied", "a", { outcome: "denied", details: { reason: "x" } }),
      entry("agent.enrolled", "b"),
      entry("agent.denied", "a", { outcome: "denied", details: { reason: "x" } }),
      entry("agent.enrolled", "a", { fleet: "g" }),
    ]);
    expect(
      groups.map(({ newest, count, subjects, summary }) => [
        newest.type,
        count,
        subjects.map(({ subject }) => subject.id).join(""),
        summary,
      ]),
    ).toEqual([
      ["agent.enrolled", 2, "cb", ""],
      ["agent.denied", 2, "a", "x"],
      ["agent.enrolled", 1, "a", ""],
    ]);
  });

  it("whose details differ add none of them", () => {
    const [group] = groupEvents([
      entry("user.created", "a", { details: { role: "viewer" } }),
      entry("user.created", "b", { details: { role: "admin" } }),
    ]);
    expect(group?.summary).toBe("");
  });
});
