import { describe, expect, it } from "vitest";

import { entriesOf, NUMBER_GROUPS } from "@/pages/compliance/numbers";
import { periodOf, reportUrl } from "@/pages/compliance/period";
import { agentQuery } from "@/pages/agents/filters";
import { filterOf, reportOf } from "@/pages/ledger/filters";
import { type Piece, piecesOf, type Sunburst, sunburstOption } from "@/pages/overview/sunburst";
import {
  COMPLIANCE_BAND_NAMES,
  COMPLIANCE_REASON_NAMES,
  COMPLIANCE_REASONS,
} from "@/text/compliance";

const NOW = Date.parse("2026-02-14T10:11:12Z");

function sunburst(sizes: number[], more = 0): Sunburst {
  const bandsOf = (agents: number): Sunburst["bands"] => [
    { band: "attention", agents: 1, reasons: [{ reason: "offline", agents: 1 }] },
    { band: "compliant", agents: agents - 1, reasons: [{ reason: "online", agents: agents - 1 }] },
  ];
  const all = sizes.reduce((sum, size) => sum + size, 0) + more;
  const off = sizes.length + (more > 0 ? 1 : 0);
  return {
    as_of: "2026-02-14T10:11:12Z",
    bands: [
      { band: "attention", agents: off, reasons: [{ reason: "offline", agents: off }] },
      { band: "compliant", agents: all - off, reasons: [{ reason: "online", agents: all - off }] },
    ],
    fleets: sizes.map((size, place) => ({
      fleet: `f-${place}`,
      name: "F",
      agents: size,
      bands: bandsOf(size),
    })),
    more_fleets: more > 0 ? 1 : 0,
    more_agents: more,
  };
}

function flat(pieces: readonly Piece[]): Piece[] {
  return pieces.flatMap((piece) => [piece, ...flat(piece.parts)]);
}

describe("the sunburst", () => {
  it("has a word for every band and reason, and orders both by gravity", () => {
    const bands = COMPLIANCE_REASON_NAMES.map((name) => COMPLIANCE_REASONS[name].band);
    expect([...new Set(bands)]).toEqual(COMPLIANCE_BAND_NAMES);
  });

  it("leads from each piece to exactly what it counts", () => {
    const [fleet] = piecesOf(sunburst([5]));
    expect(fleet?.query).toEqual({ fleet: "f-0" });
    expect(flat(fleet?.parts ?? []).map(({ agents, query }) => [agents, query])).toEqual([
      [1, { fleet: "f-0", compliance: "attention" }],
      [1, { fleet: "f-0", compliance: "offline" }],
      [4, { fleet: "f-0", compliance: "compliant" }],
      [4, { fleet: "f-0", compliance: "online" }],
    ]);
    for (const { query } of flat(fleet?.parts ?? [])) {
      const asked = agentQuery(query as Record<string, string>, NOW);
      expect(asked.compliance).toBe(query?.compliance);
    }
  });

  it("makes one piece of the small fleets, loses nobody, and leads nowhere from it", () => {
    const pieces = piecesOf(sunburst([9, 8, 7, 6], 5), 3);
    expect(pieces.map(({ name, agents }) => [name, agents])).toEqual([
      ["f-0", 9],
      ["f-1", 8],
      ["3 other fleets", 18],
    ]);
    const others = flat(pieces.slice(2));
    expect(others.every(({ query }) => query === undefined)).toBe(true);
    expect(others.map(({ name, agents }) => [name, agents])).toContainEqual(["Offline", 3]);
    expect(piecesOf(sunburst([9, 8, 7]), 3)).toHaveLength(3);
  });

  it("gives every band a pattern of its own beside its colour", () => {
    const fills: string[] = [];
    const bands = COMPLIANCE_REASON_NAMES.map((reason) => ({
      band: COMPLIANCE_REASONS[reason].band,
      agents: 1,
      reasons: [{ reason, agents: 1 }],
    }));
    const fleet = { fleet: "a", name: "A", agents: 1, bands };
    sunburstOption(piecesOf({ ...sunburst([5]), fleets: [fleet] }), (name) => name, (...fill) => {
      fills.push(fill.join());
      return "";
    });
    expect(new Set(fills).size).toBe(COMPLIANCE_BAND_NAMES.length);
    expect(new Set(fills.map((fill) => fill.split(",")[0])).size).toBe(COMPLIANCE_BAND_NAMES.length);
  });
});

describe("the period of a report", () => {
  it.each([
    ["quarter", "2026-01-01T00:00:00.000Z", "2026-04-01T00:00:00.000Z"],
    ["last-quarter", "2025-10-01T00:00:00.000Z", "2026-01-01T00:00:00.000Z"],
    ["30d", "2026-01-15T10:12:00.000Z", "2026-02-14T10:12:00.000Z"],
    ["own", "2026-02-01T00:00:00.000Z", "2026-02-04T00:00:00.000Z"],
  ] as const)("%s is from %s until before %s", (preset, from, to) => {
    expect(periodOf(preset, NOW, "2026-02-01", "2026-02-03")).toEqual({ from, to });
  });

  it.each([
    ["2026-02-03", "2026-02-01"],
    ["", "2026-02-01"],
    ["2026-02-31", ""],
    ["2020-01-01", "2026-01-01"],
  ])("from %s to %s is none", (first, last) => {
    expect(periodOf("own", NOW, first, last)).toBeUndefined();
  });

  it("stands in the report's address, whole", () => {
    const period = periodOf("quarter", NOW, "", "");
    expect(period && reportUrl(period, "a-b", "json")).toBe(
      "/api/v1/compliance/report?from=2026-01-01T00%3A00%3A00.000Z&to=2026-04-01T00%3A00%3A00.000Z&format=json&fleet=a-b",
    );
  });
});

describe("the numbers of a report", () => {
  const period = { from: "2026-02-01T00:00:00.000Z", to: "2026-02-04T00:00:00.000Z" };
  const lines = NUMBER_GROUPS.flatMap((group) => group.lines);

  it("lead to their entries in the ledger, all of them and of the same period", () => {
    expect(lines.filter((line) => line.types === undefined).map(({ name }) => name)).toEqual([
      "moved_away",
    ]);
    for (const line of lines.filter(({ types }) => types !== undefined)) {
      expect(filterOf(entriesOf(line, period, "a")?.query ?? {})).toMatchObject({
        type: line.types,
        fleet: line.isOwn ? "a" : undefined,
        not_before: period.from,
        before: period.to,
      });
    }
  });

  it("are found again from the ledger's filters", () => {
    const [query] = lines.map((line) => entriesOf(line, period, "a")?.query ?? {});
    const back = { fleet: "a", period: "own", first: "2026-02-01", last: "2026-02-03" };
    expect(reportOf(query ?? {})).toEqual(back);
    expect(reportOf({ fleet: "a", from: "", until: "" })).toEqual({ fleet: "a" });
    expect(reportOf({ fleet: "", from: "nonsense" })).toEqual({});
  });
});
