import type { SunburstSeriesOption } from "echarts/charts";
import type { TooltipComponentOption } from "echarts/components";
import type { ComposeOption } from "echarts/core";
import type { LocationQueryRaw } from "vue-router";

import type { Schemas } from "@/api/client";
import { countOf, formatNumber, formatPercent } from "@/text/format";
import {
  COMPLIANCE_BANDS,
  COMPLIANCE_REASONS,
  type ComplianceBand,
  type ComplianceReason,
  type Pattern,
} from "@/text/compliance";

export type Sunburst = Schemas["SunburstView"];
type Fleet = Schemas["FleetStandingView"];
type Band = Schemas["BandView"];
type Option = ComposeOption<SunburstSeriesOption | TooltipComponentOption>;

/** A piece of the chart, and a row of its table. */
export interface Piece {
  name: string;
  agents: number;
  /** What the list of agents is to show; none where several fleets are one piece. */
  query?: LocationQueryRaw;
  band?: ComplianceBand;
  reason?: ComplianceReason;
  parts: Piece[];
}

/** More fleets than these are slivers that nobody can read or hit. */
export const MOST_FLEETS = 12;

/** Fleet, band, reason; what is smaller than the largest fleets is one piece. */
export function piecesOf(sunburst: Sunburst, most: number = MOST_FLEETS): Piece[] {
  const isTooMany = sunburst.fleets.length > most || sunburst.more_fleets > 0;
  const shown = isTooMany ? sunburst.fleets.slice(0, most - 1) : sunburst.fleets;
  const pieces = shown.map(pieceOf);
  return isTooMany ? [...pieces, othersOf(sunburst, shown)] : pieces;
}

function pieceOf(fleet: Fleet): Piece {
  const query = { fleet: fleet.fleet };
  return { name: fleet.fleet, agents: fleet.agents, query, parts: bandsOf(fleet.bands, query) };
}

/** Bands and their reasons, each leading to its agents. */
export function bandsOf(bands: readonly Band[], query: LocationQueryRaw = {}): Piece[] {
  return bands.map(({ band, agents, reasons }) => ({
    name: COMPLIANCE_BANDS[band].label,
    agents,
    query: { ...query, compliance: band },
    band,
    parts: reasons.map(({ reason, agents: some }) => ({
      name: COMPLIANCE_REASONS[reason].label,
      agents: some,
      query: { ...query, compliance: reason },
      band,
      reason,
      parts: [],
    })),
  }));
}

/** All bands but those of the fleets that are shown one by one. */
function othersOf(sunburst: Sunburst, shown: readonly Fleet[]): Piece {
  const left = new Map<ComplianceReason, number>();
  const add = (bands: readonly Band[], sign: number): void => {
    for (const { reason, agents } of bands.flatMap((band) => band.reasons)) {
      left.set(reason, (left.get(reason) ?? 0) + sign * agents);
    }
  };
  add(sunburst.bands, 1);
  for (const fleet of shown) add(fleet.bands, -1);
  const bands = sunburst.bands.flatMap(({ band, reasons }) => {
    const some = reasons
      .map(({ reason }) => ({ reason, agents: left.get(reason) ?? 0 }))
      .filter(({ agents }) => agents > 0);
    const agents = some.reduce((sum, one) => sum + one.agents, 0);
    return agents === 0 ? [] : [{ band, agents, reasons: some }];
  });
  const count = sunburst.fleets.length - shown.length + sunburst.more_fleets;
  return {
    name: countOf(count, "other fleet"),
    agents: bands.reduce((sum, band) => sum + band.agents, 0),
    parts: bandsOf(bands).map((piece) => withoutWay(piece)),
  };
}

function withoutWay(piece: Piece): Piece {
  return { ...piece, query: undefined, parts: piece.parts.map(withoutWay) };
}

const RINGS = { hole: 20, fleets: 48, bands: 75, reasons: 99 };
/** So narrow a piece can still be hit; where there are many, their shares come first. */
const LEAST_ANGLE = 4;
const MANY_PIECES = 40;

/** The chart of these pieces; `colour` resolves a name of styles/tokens.css. */
export function sunburstOption(
  pieces: readonly Piece[],
  colour: (name: string) => string,
): Option {
  const total = pieces.reduce((sum, piece) => sum + piece.agents, 0);
  const leaves = pieces.flatMap((piece) => piece.parts.flatMap((part) => part.parts)).length;
  const surface = colour("--surface");
  return {
    animation: false,
    textStyle: { fontFamily: "Inter Variable, system-ui, sans-serif" },
    tooltip: {
      trigger: "item",
      // Drawn, not written as HTML: the policy forbids it.
      renderMode: "richText",
      confine: true,
      backgroundColor: colour("--raised"),
      borderColor: colour("--line"),
      textStyle: { color: colour("--ink"), fontSize: 12 },
      formatter: (item) => tooltipText(item, total),
    },
    series: {
      type: "sunburst",
      radius: ["0%", "100%"],
      data: pieces.map((piece) => nodeOf(piece, colour)),
      sort: undefined,
      nodeClick: false,
      minAngle: leaves > MANY_PIECES ? 0 : LEAST_ANGLE,
      emphasis: { focus: "ancestor" },
      itemStyle: { borderWidth: 1.5, borderColor: surface },
      label: { fontSize: 11, overflow: "truncate", ellipsis: "…", minAngle: 14 },
      levels: [
        {},
        level(RINGS.hole, RINGS.fleets, { rotate: "tangential", minAngle: 24, width: 84 }),
        level(RINGS.fleets, RINGS.bands, { rotate: "tangential", minAngle: 26, width: 76 }),
        level(RINGS.bands, RINGS.reasons, { rotate: "tangential", minAngle: 24, width: 110 }),
      ],
    },
  };
}

function level(
  from: number,
  to: number,
  label: NonNullable<SunburstSeriesOption["label"]>,
): NonNullable<SunburstSeriesOption["levels"]>[number] {
  return { r0: `${from}%`, r: `${to}%`, label };
}

type Node = NonNullable<SunburstSeriesOption["data"]>[number] & { piece: Piece };

function nodeOf(piece: Piece, colour: (name: string) => string): Node {
  const node = {
    name: piece.name,
    value: piece.agents,
    piece,
    children: piece.parts.map((part) => nodeOf(part, colour)),
    cursor: piece.query === undefined ? "default" : "pointer",
  };
  if (piece.band === undefined) {
    const itemStyle = { color: colour("--sunken"), borderColor: colour("--line-strong"), borderWidth: 1 };
    return { ...node, itemStyle, label: { color: colour("--ink") } };
  }
  const { solid, soft, pattern } = COMPLIANCE_BANDS[piece.band];
  if (piece.reason === undefined) {
    return { ...node, itemStyle: { color: colour(solid) }, label: { color: colour("--surface") } };
  }
  return {
    ...node,
    itemStyle: {
      color: colour(soft),
      borderColor: colour(solid),
      borderWidth: 1,
      decal: decalOf(pattern, colour(solid)),
    },
    label: { color: colour(solid), backgroundColor: colour(soft), padding: [1, 2], borderRadius: 2 },
  };
}

const THIRD_TURN = Math.PI / 4;
function decalOf(pattern: Pattern, colour: string): Decal {
  const base = { color: `color-mix(in srgb, ${colour} 35%, transparent)`, symbolSize: 1 };
  const rotation = THIRD_TURN;
  switch (pattern) {
    case "plain":
      return { symbol: "none" };
    case "dotted":
      return { ...base, symbol: "circle", dashArrayX: [[0, 5], [3, 2]], dashArrayY: [3, 3], symbolSize: 0.7 };
    case "striped":
      return { ...base, symbol: "rect", dashArrayX: [1, 0], dashArrayY: [1.5, 4], rotation };
    case "crossed":
      return { ...base, symbol: "rect", dashArrayX: [[1, 4], [4, 1]], dashArrayY: [1.5, 2], rotation };
  }
}
type Decal = NonNullable<NonNullable<SunburstSeriesOption["itemStyle"]>["decal"]>;

/** The piece that an event or a tooltip of the chart is about. */
export function pieceAt(item: unknown): Piece | undefined {
  const one: unknown = Array.isArray(item) ? item[0] : item;
  return (one as { data?: { piece?: Piece } } | undefined)?.data?.piece;
}

function tooltipText(item: unknown, total: number): string {
  const piece = pieceAt(item);
  if (piece === undefined) return "";
  const share = total === 0 ? 0 : (piece.agents / total) * 100;
  const fleet = typeof piece.query?.fleet === "string" ? piece.query.fleet : "";
  const name = fleet === "" || fleet === piece.name ? piece.name : `${fleet}: ${piece.name}`;
  return `${name}\n${countOf(piece.agents, "agent")} of ${formatNumber(total)} (${formatPercent(share, 1)})`;
}
