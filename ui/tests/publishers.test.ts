import { describe, expect, it } from "vitest";

import {
  beliefText,
  dayAfter,
  dayBegins,
  dayEnds,
  dayOf,
  isOver,
  keyError,
  namesError,
  namesOf,
  publisherState,
} from "@/pages/publishers/publisher";
import { readBundleFile } from "@/pages/trust/bundleFile";
import { kindText } from "@/text/approvals";

const NOW = Date.parse("2026-05-01T12:00:00Z");
const DAY = 86_400_000;

function publisher(changes: object = {}) {
  return {
    revoked_at: null as string | null,
    not_before: new Date(NOW - DAY).toISOString(),
    not_after: new Date(NOW + 400 * DAY).toISOString(),
    succeeded_by: null as string | null,
    awaits_bundle: false,
    told_in: 4 as number | null,
    agents: 10,
    agents_told: 7,
    ...changes,
  };
}

function ending(days: number): { not_after: string } {
  return { not_after: new Date(NOW + days * DAY).toISOString() };
}

describe("a publisher's state", () => {
  it.each([
    [{}, "Valid", "ok"],
    [ending(31), "Valid", "ok"],
    [ending(30), "Ends soon", "warn"],
    [{ ...ending(30), succeeded_by: "ab" }, "Being replaced", "note"],
    [ending(0), "Expired", "quiet"],
    [{ not_before: new Date(NOW + DAY).toISOString() }, "Not yet valid", "note"],
    [{ ...ending(-1), revoked_at: "2026-04-01T00:00:00Z" }, "Revoked", "bad"],
  ])("of %o is %s", (changes, text, tone) => {
    expect(publisherState(publisher(changes), NOW)).toEqual({ text, tone });
  });

  it("is over by the clock, whatever was read", () => {
    expect(isOver(publisher(), NOW)).toBe(false);
    expect(isOver(publisher(), NOW + 400 * DAY)).toBe(true);
    expect(isOver(publisher({ revoked_at: "2026-04-01T00:00:00Z" }), NOW)).toBe(true);
  });

  it("tells what agents have heard, and of a revoked one that they have dropped it", () => {
    expect(beliefText(publisher())).toBe("Believed by 7 of 10 agents");
    expect(beliefText(publisher({ agents: 1, agents_told: 1 }))).toBe("Believed by 1 of 1 agent");
    expect(beliefText(publisher({ revoked_at: "x" }))).toBe("Dropped by 7 of 10 agents");
    expect(beliefText(publisher({ awaits_bundle: true, told_in: null }))).toContain("Waits");
    expect(beliefText(publisher({ told_in: null }))).toBe("No agent was told");
    expect(beliefText(publisher({ agents: 0, agents_told: 0 }))).toBe("In trust bundle 4");
  });
});

describe("what is typed to register one", () => {
  it("is split into names, and what is none is named", () => {
    expect(namesOf(" face-*, voice\nface-* ")).toEqual(["face-*", "voice"]);
    expect(namesError("face-*, voice")).toBe("");
    expect(namesError("*")).toBe("");
    expect(namesError(" ")).toContain("at least one");
    expect(namesError("face, Voice")).toContain("“Voice”");
    expect(namesError("a*b")).toContain("“a*b”");
    expect(namesError(Array.from({ length: 101 }, (_, n) => `n${n}`).join())).toContain("100");
  });

  it("is never a private key", () => {
    expect(keyError("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----")).toBe("");
    expect(keyError("-----BEGIN PRIVATE KEY-----\nx")).toContain("private key");
    expect(keyError("-----BEGIN CERTIFICATE-----")).toContain("not a public key");
    expect(keyError("  ")).toContain("PREFIX.pub");
  });

  it("takes whole days of this time zone", () => {
    expect(Date.parse(dayEnds("2026-05-02")) - Date.parse(dayBegins("2026-05-02"))).toBe(
      DAY - 1000,
    );
    expect(dayOf(Date.parse(dayBegins("2026-05-02")))).toBe("2026-05-02");
    expect(dayOf(Date.parse(dayEnds("2026-05-02")))).toBe("2026-05-02");
    expect(dayAfter(Date.parse(dayBegins("2026-05-02")), 2)).toBe("2026-05-04");
  });
});

describe("a signed bundle's file", () => {
  const envelope = { payload: "e30=", payloadType: "x", signatures: [{ keyid: "a", sig: "b" }] };

  it("gives its envelope", () => {
    expect(readBundleFile(JSON.stringify({ current: {}, envelope }))).toEqual({ envelope });
  });

  it.each([
    ["no json", "not JSON"],
    ["[]", "no draft"],
    ["null", "no draft"],
    [JSON.stringify({ envelope: { payload: 1 } }), "no draft"],
    [JSON.stringify({ envelope: { ...envelope, signatures: [] } }), "Nobody has signed"],
    [" ".repeat(800_000), "too large"],
  ])("is refused in words where it is none", (text, words) => {
    const read = readBundleFile(text);
    expect("error" in read ? read.error : "").toContain(words);
  });
});

it("a change of a publisher has words for whoever approves it", () => {
  expect(kindText("publisher.change").effect).toContain("paused");
});
