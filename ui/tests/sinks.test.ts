import { describe, expect, it } from "vitest";

import {
  blankConfig,
  errorsOf,
  isInTrouble,
  KINDS,
  newWebhookSecret,
  placeOf,
  remedyOf,
} from "@/pages/sinks/sinks";

describe("sinks", () => {
  it("begin with a form for every kind, and say what is missing", () => {
    const missing = KINDS.map(({ kind }) => [...errorsOf(blankConfig(kind)).keys()].join());
    expect(missing).toEqual(["url", "", "url", "host", "", ""]);
  });

  it("take only plain https URLs and plain file names", () => {
    for (const url of ["http://a.example", "https://", "https://user@a.example", "a.example"]) {
      expect(errorsOf({ kind: "webhook", url, batch_items: 1, timeout_s: 30 }).has("url")).toBe(true);
    }
    for (const file_name of ["../a.jsonl", "a.txt", ".jsonl", "A.jsonl"]) {
      expect(errorsOf({ kind: "file", file_name }).has("file_name")).toBe(true);
    }
  });

  it("are told apart by where they send to", () => {
    const url = "https://splunk.example.com:8088";
    const config = { kind: "webhook", url, batch_items: 1, timeout_s: 30 } as const;
    expect(placeOf(config)).toBe("splunk.example.com:8088");
    expect(placeOf(blankConfig("file"))).toBe("sinks/ledger.jsonl");
  });

  it("make secrets of 32 bytes, each another", () => {
    const made = new Set(Array.from({ length: 20 }, newWebhookSecret));
    expect(made.size).toBe(20);
    for (const secret of made) expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
  });

  it("are in trouble where they should send and do not", () => {
    expect((["active", "failing", "paused", "stopped"] as const).filter((state) => isInTrouble({ state }))).toEqual([
      "failing",
      "stopped",
    ]);
    expect(remedyOf("http-599")).not.toBe("");
  });
});
