import { expect, it } from "vitest";

import { rowsOf } from "@/pages/agent/timeline";

const SELF_TEST = "agent.reported.self-test";
let number = 0;

function entry(type: string, outcome = "success") {
  number += 1;
  return {
    id: String(number),
    leaf_index: number,
    time: "2026-02-14T10:11:12Z",
    type,
    actor_kind: "agent",
    actor_id: "a",
    outcome,
    details: {},
  };
}

it("makes one row of what an agent reports all the time, until something else comes", () => {
  const entries = [
    ...[entry(SELF_TEST), entry(SELF_TEST), entry("agent.revoked"), entry("agent.revoked")],
    ...[entry(SELF_TEST), entry(SELF_TEST, "failure")],
  ];
  expect(rowsOf(entries).map((row) => [row.entry, row.count])).toEqual([
    [entries[0], 2],
    [entries[2], 1],
    [entries[3], 1],
    [entries[4], 1],
    [entries[5], 1],
  ]);
});
