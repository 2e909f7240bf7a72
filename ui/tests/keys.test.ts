import { describe, expect, it } from "vitest";

import { relevanceOf } from "@/live/hint";
import {
  canEver,
  doneElsewhere,
  type VersionAction,
  whyNot,
  whyNotVersion,
} from "@/pages/keys/actions";
import { matches, ordered, passes } from "@/pages/keys/filtering";
import { endOf, parametersFile, parseWrapped, wrapCommands } from "@/pages/keys/importing";
import {
  consequencesOf,
  describeUses,
  isGone,
  type Kek,
  progressOf,
  type RewrapJob,
  standingOf,
  textOfUse,
  timeLeft,
  troubleOf,
} from "@/pages/keys/keks";
import { nameError, type ProviderName, referenceOf, shortKey } from "@/pages/keys/providers";
import { kindText, subjectOf } from "@/text/approvals";

const NOW = Date.parse("2026-05-01T12:00:00Z");
const ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const CODES = [
  "key-disabled",
  "key-missing",
  "key-pending-deletion",
  "key-permission-denied",
  "key-provider-throttled",
  "key-provider-unavailable",
  "missing-extra",
];

function job(values: Partial<RewrapJob> = {}): RewrapJob {
  return {
    id: "01a20514-0823-7da9-b8be-302af634c713",
    kek_id: "k",
    kind: "rewrap",
    state: "running",
    per_second: 20,
    total: 100,
    moved: 0,
    failed: 0,
    left: 100,
    code: null,
    reason: null,
    retry_at: null,
    created_at: "2026-05-01T11:00:00Z",
    created_by: "command-line",
    updated_at: "2026-05-01T11:00:00Z",
    finished_at: null,
    ...values,
  };
}

function kek(values: Partial<Kek> = {}): Kek {
  return {
    id: "k",
    fleet: "hospital-a",
    provider: "aws",
    key_id: ARN,
    reference: `aws:${ARN}`,
    origin: "reference",
    state: "active",
    key_version: "2",
    key_state: "enabled",
    expires_at: null,
    checked_at: "2026-05-01T11:59:30Z",
    trouble_code: null,
    trouble_reason: null,
    trouble_since: null,
    created_at: "2026-04-01T00:00:00Z",
    created_by: "command-line",
    retired_at: null,
    taken_away: false,
    secrets: 3,
    uses: [{ purpose: "fleet-dek", secrets: 3 }],
    misplaced: 0,
    job: null,
    ...values,
  };
}

/** Something that says this; and nothing at all where it is empty. */
function saying(text: string): RegExp {
  return text === "" ? /^$/ : new RegExp(text.replaceAll(/[.?]/g, "\\$&"));
}

const disabled = { trouble_code: "key-disabled", taken_away: true };
const throttled = { trouble_code: "key-provider-throttled" };

describe("how a key stands", () => {
  it.each([
    [{}, "In use", "ok"],
    [{ expires_at: "2026-05-20T12:00:00Z" }, "In use", "ok"],
    [{ expires_at: "2026-05-15T12:00:00Z" }, "Expires soon", "warn"],
    [{ expires_at: "2026-05-01T12:00:00Z" }, "Material expired", "bad"],
    [disabled, "Taken away", "bad"],
    [throttled, "No answer", "warn"],
    [{ trouble_code: "missing-extra" }, "Not usable", "bad"],
    [{ state: "former" }, "Being emptied", "note"],
    [{ ...disabled, state: "retired" }, "Retired", "quiet"],
  ])("%j is %s", (values, label, tone) => {
    expect(standingOf(kek(values), NOW)).toEqual({ label, tone });
  });

  it("is gone when its material is over, before anybody has looked", () => {
    expect(isGone(kek({ expires_at: "2026-05-01T12:00:01Z" }), NOW)).toBe(false);
    expect(isGone(kek({ expires_at: "2026-05-01T12:00:00Z" }), NOW)).toBe(true);
    expect(isGone(kek(throttled), NOW)).toBe(false);
    expect(isGone(kek({ ...disabled, state: "retired" }), NOW)).toBe(false);
  });

  it.each(CODES)("%s is said in words, with what helps", (code) => {
    const trouble = troubleOf(kek({ trouble_code: code }), NOW);
    expect(trouble?.what).not.toContain(code);
    expect(trouble?.remedy).toMatch(/\w+/);
  });

  it("has words for trouble that nobody has named yet, and none where there is none", () => {
    expect(troubleOf(kek({ trouble_code: "vault-error" }), NOW)?.what).toContain("vault error");
    expect(troubleOf(kek(), NOW)).toBeUndefined();
    expect(troubleOf(kek({ ...disabled, state: "retired" }), NOW)).toBeUndefined();
  });

  it("tells what follows for whom it concerns", () => {
    expect(consequencesOf(kek(disabled), NOW).join(" ")).toMatch(/hospital-a.*Other fleets/);
    expect(consequencesOf(kek({ ...disabled, fleet: null }), NOW).join(" ")).toContain("every fleet");
    expect(consequencesOf(kek(throttled), NOW)[0]).toContain("Nobody is denied");
    // Expired and not answering: the first is what counts.
    const both = kek({ ...throttled, expires_at: "2026-04-30T00:00:00Z" });
    expect(consequencesOf(both, NOW)[0]).toContain("granted no model keys");
  });

  it("says what is under it in words", () => {
    const texts = [
      { purpose: "fleet-dek", secrets: 1 },
      { purpose: "dek", secrets: 1200 },
      { purpose: "signing-key-desired", secrets: 1 },
      { purpose: "new-kind", secrets: 2 },
    ].map(textOfUse);
    expect(texts).toEqual([
      "1 package key for the fleet",
      "1,200 package keys",
      "1 signing key for deployments",
      "2 new kind",
    ]);
    const signing = ["grant", "ledger"].map((role) => ({
      purpose: `signing-key-${role}`,
      secrets: 1,
    }));
    const described = describeUses([{ purpose: "dek", secrets: 2 }, ...signing]);
    expect(described.map(({ title }) => title)).toEqual(["2 package keys", "2 signing keys"]);
    expect(described[1]?.text).toContain("grants, the ledger");
  });
});

describe("a job that moves secrets", () => {
  it("is not done before the last is moved", () => {
    expect(progressOf(job({ left: 1, total: 1000 })).percent).toBe(99);
    expect(progressOf(job({ left: 0, total: 0 })).percent).toBe(0);
    expect(progressOf(job({ state: "done", moved: 7, left: 0 })).percent).toBe(100);
  });

  it("counts what was sealed under the former version meanwhile", () => {
    expect(progressOf(job({ total: 10, left: 12 }))).toEqual({ done: 0, total: 12, percent: 0 });
    expect(progressOf(job({ total: 10, left: 4 })).done).toBe(6);
  });

  it("says how long it takes, unless it waits", () => {
    expect(timeLeft(job({ left: 2400 }))).toBe("about 2 min left");
    expect(timeLeft(job({ left: 1 }))).toBe("about 1 s left");
    expect(timeLeft(job({ left: 5, retry_at: "2026-05-01T12:00:10Z" }))).toBe("");
    expect(timeLeft(job({ state: "failed" }))).toBe("");
  });
});

describe("what cannot be done to a key now", () => {
  it.each([
    ["rotate", {}, ""],
    ["rotate", disabled, "has to be back"],
    ["rotate", { state: "former" }, "taken over"],
    ["rewrap", {}, "newest version"],
    ["rewrap", { secrets: 0 }, "Nothing is under"],
    ["rewrap", { misplaced: 2 }, ""],
    ["rewrap", { misplaced: 2, job: job() }, "at it"],
    ["rewrap", { misplaced: 2, job: job({ state: "failed" }) }, ""],
    ["import", { expires_at: "2026-04-01T00:00:00Z" }, ""],
    ["remove", disabled, ""],
    ["remove", { job: job() }, "has to end first"],
    ["migrate", {}, ""],
    ["check", { state: "former" }, ""],
    ["check", { state: "retired" }, "not in use"],
  ] as const)("%s of %j: %j", (action, values, why) => {
    const reason = whyNot(action, kek(values), NOW);
    expect(reason).toMatch(saying(why));
  });

  it("is a migration while any key's secrets are moved", () => {
    const others = [kek({ job: job({ state: "done" }) })];
    expect(whyNot("migrate", kek({ fleet: null }), NOW, others)).toBe("");
    others.push(kek({ job: job() }));
    expect(whyNot("migrate", kek({ fleet: null }), NOW, others)).toContain("has to end first");
  });

  it.each([
    ["disable", { is_current: true, secrets: 3 }, "Rotate first"],
    ["disable", { is_current: false, secrets: 1 }, "1 secret is under it. Rewrap"],
    ["destroy", { is_current: false, secrets: 20 }, "20 secrets are under it"],
    ["destroy", { is_current: false, secrets: 0 }, ""],
    ["enable", { is_current: true, secrets: 3 }, ""],
  ] as const)("%s a version %j: %j", (action, version, why) => {
    expect(whyNotVersion(action, kek(), version)).toMatch(saying(why));
  });

  it("is anything to a version while secrets are moved", () => {
    const version = { is_current: false, secrets: 0 };
    expect(whyNotVersion("disable", kek({ job: job() }), version)).toContain("end first");
    expect(whyNotVersion("enable", kek({ job: job() }), version)).toBe("");
  });

  it("is, at some providers, anything to one version", () => {
    const aws = { name: "aws", disables_versions: false, destroys_versions: false } as const;
    const azure = { name: "azure", disables_versions: true, destroys_versions: false } as const;
    const local = { name: "local", disables_versions: true, destroys_versions: true } as const;
    expect(["disable", "enable", "destroy"].map((one) => canEver(one as VersionAction, azure))).toEqual(
      [true, true, false],
    );
    expect(doneElsewhere(aws)).toContain("AWS KMS disables and destroys whole keys only");
    expect(doneElsewhere(azure)).toContain("Azure Key Vault destroys whole keys only");
    expect(doneElsewhere(local)).toBe("");
  });
});

describe("the name of a key", () => {
  it.each([
    ["aws", ARN, ""],
    ["aws", ` aws:${ARN} `, ""],
    ["aws", "arn:aws:kms:eu-central-1:111122223333:alias/kek", "It looks like"],
    ["aws", "", "Which key"],
    ["azure", "https://v.vault.azure.net/keys/k", ""],
    ["azure", "https://v.vault.azure.net/keys/k/0123", "It looks like"],
    ["gcp", "projects/p/locations/europe-west3/keyRings/r/cryptoKeys/k", ""],
    ["gcp", "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", "It looks like"],
    ["local", "anything", ""],
  ] as [ProviderName, string, string][])("%s %j: %j", (provider, name, error) => {
    expect(nameError(provider, name)).toMatch(saying(error));
  });

  it("becomes a reference, whether or not the provider was pasted with it", () => {
    expect(referenceOf("aws", ` aws:${ARN}`)).toBe(`aws:${ARN}`);
    expect(referenceOf("aws", ARN)).toBe(`aws:${ARN}`);
    expect(referenceOf("local", "x")).toBe("local");
  });

  it("is shortened to its end", () => {
    expect(shortKey("projects/p/locations/l/keyRings/r/cryptoKeys/models")).toBe("models");
    expect(shortKey(ARN)).toBe("…cd-56ef-1234567890ab");
  });
});

describe("material that comes back", () => {
  const expected = { provider: "local", key_id: "local-1", token: "t" };
  const good = { provider: "local", key_id: "local-1", token: "t", wrapped: "AAAA" };
  const read = (value: unknown, of: Parameters<typeof parseWrapped>[1] = expected) =>
    parseWrapped(typeof value === "string" ? value : JSON.stringify(value), of);

  it("is what the command has written for this key", () => {
    expect(read(good)).toEqual({ token: "t", wrapped: "AAAA" });
    // Asked for by somebody else, before: its own token counts.
    expect(read({ ...good, token: "u" }, { provider: "local", key_id: "local-1" })).toEqual({
      token: "u",
      wrapped: "AAAA",
    });
  });

  it.each([
    ["", "Choose wrapped.json"],
    ["-----BEGIN PUBLIC KEY-----", "not JSON"],
    ["null", "That is no wrapped.json"],
    ["[]", "That is no wrapped.json"],
    [{ ...good, token: 1 }, "That is no wrapped.json"],
    [{ ...good, key_id: "local-2" }, "another key"],
    [{ ...good, token: "earlier" }, "earlier params.json"],
    [{ ...good, public_key_pem: "…" }, "That is params.json"],
  ])("%j is refused: %s", (value, why) => {
    expect(read(value)).toContain(why);
  });

  it("is not read where it is much too long", () => {
    expect(read("x".repeat(70_000))).toContain("too long");
  });

  it("is wrapped by commands that need nothing but the file", () => {
    expect(wrapCommands("aws").make).toBe(
      "tensorguard keys wrap-for-import params.json --generate kek.bin --out wrapped.json",
    );
    expect(wrapCommands("azure").take).toContain("--material kek.pem");
    const parameters = { provider: "local", key_id: "k", token: "t" } as Parameters<
      typeof parametersFile
    >[0];
    expect(JSON.parse(parametersFile(parameters))).toEqual(parameters);
  });

  it("ends with a day, which is not over", () => {
    expect(endOf("", NOW)).toBeNull();
    expect(endOf("2026-04-30", NOW)).toEqual({ error: "That day is over already." });
    expect(endOf("32nd", NOW)).toEqual({ error: "That is no day." });
    expect(Date.parse(endOf("2026-06-01", NOW) as string)).toBeGreaterThan(NOW);
  });
});

describe("a list of keys", () => {
  it("is filtered by what people look for", () => {
    const all = [
      kek(),
      kek(disabled),
      kek({ expires_at: "2026-05-03T00:00:00Z" }),
      kek({ misplaced: 1 }),
      kek({ state: "retired", misplaced: 1 }),
    ];
    const places = (name: Parameters<typeof passes>[1]) =>
      all.flatMap((one, place) => (passes(one, name, NOW) ? [place] : []));
    expect(places("used")).toEqual([0, 1, 2, 3]);
    expect(places("trouble")).toEqual([1]);
    expect(places("expiring")).toEqual([2]);
    expect(places("rewrap")).toEqual([3]);
    expect(places("retired")).toEqual([4]);
  });

  it("is found by the fleet, the provider, or any piece of the key's name", () => {
    for (const text of ["HOSP", "aws kms", "1234abcd", " "]) expect(matches(kek(), text)).toBe(true);
    expect(matches(kek(), "azure")).toBe(false);
  });

  it("stays in its order whatever happens to keys", () => {
    const all = [
      kek({ id: "old", fleet: "b", created_at: "2026-01-01T00:00:00Z" }),
      kek({ id: "young", fleet: "b", created_at: "2026-02-01T00:00:00Z" }),
      kek({ id: "other", fleet: "a", ...disabled }),
    ];
    expect(ordered(all).map(({ id }) => id)).toEqual(["other", "young", "old"]);
  });

  it("is read again for a key's hint, and one key's page for its own", () => {
    const hint = { kind: "trust", id: "k", fleet: "hospital-a" } as const;
    expect(relevanceOf({ kinds: ["trust"] }, hint, undefined)).toBe("now");
    expect(relevanceOf({ kinds: ["trust"], id: "k" }, hint, undefined)).toBe("now");
    expect(relevanceOf({ kinds: ["trust"], id: "other" }, hint, undefined)).toBe("never");
  });
});

describe("destroying a version", () => {
  it("is named to who decides with the key that it belongs to", () => {
    const request = { kek_id: "k", version: "1", reason: "old" };
    expect(subjectOf({ request, fleet: null })).toBe("version 1 of the platform's key");
    expect(subjectOf({ request, fleet: "a" })).toBe("version 1 of the key of a");
    expect(kindText("kek.destroy-version").effect).toContain("never opens again");
  });
});
