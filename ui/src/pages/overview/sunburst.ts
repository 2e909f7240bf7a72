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

/** Where the rings end, in percent of the radius. */
const RINGS = { hole: 20, fleets: 48, bands: 75, reasons: 99 };
/** So narrow a piece can still be hit; where there are many, their shares come first. */
const LEAST_ANGLE = 4;
const MANY_PIECES = 40;
/** Of the card, which is never much wider or narrower. */
const RADIUS_PX = 150;
const CHARACTER_PX = 6.4;
const LONGEST_LABEL_PX = 84;

type Colour = (name: string) => string;
type Fill = (pattern: Pattern, solid: string, soft: string) => ZRColor;

/** The chart of these pieces; `colour` resolves a name of styles/tokens.css, `fill` draws a pattern
 * in such colours. */
export function sunburstOption(pieces: readonly Piece[], colour: Colour, fill: Fill): Option {
  const total = pieces.reduce((sum, piece) => sum + piece.agents, 0);
  const leaves = pieces.flatMap((piece) => piece.parts.flatMap((part) => part.parts)).length;
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
      data: pieces.map((piece) => nodeOf(piece, colour, fill)),
      sort: undefined,
      nodeClick: false,
      minAngle: leaves > MANY_PIECES ? 0 : LEAST_ANGLE,
      emphasis: { focus: "ancestor" },
      itemStyle: { borderWidth: 1.5, borderColor: colour("--surface") },
      label: { fontSize: 11, rotate: "tangential", overflow: "truncate", ellipsis: "…" },
      levels: [
        {},
        { r0: `${RINGS.hole}%`, r: `${RINGS.fleets}%` },
        { r0: `${RINGS.fleets}%`, r: `${RINGS.bands}%` },
        { r0: `${RINGS.bands}%`, r: `${RINGS.reasons}%` },
      ],
    },
  };
}

type Node = NonNullable<SunburstSeriesOption["data"]>[number] & { piece: Piece };
type Label = NonNullable<SunburstSeriesOption["label"]>;
export type ZRColor = NonNullable<NonNullable<SunburstSeriesOption["itemStyle"]>["color"]>;

function nodeOf(piece: Piece, colour: Colour, fill: Fill): Node {
  const node = {
    name: piece.name,
    value: piece.agents,
    piece,
    children: piece.parts.map((part) => nodeOf(part, colour, fill)),
    cursor: piece.query === undefined ? "default" : "pointer",
  };
  if (piece.band === undefined) {
    return {
      ...node,
      itemStyle: { color: colour("--sunken"), borderColor: colour("--line-strong"), borderWidth: 1 },
      label: labelOf(piece, RINGS.hole, RINGS.fleets, colour("--ink")),
    };
  }
  const { solid, soft, pattern } = COMPLIANCE_BANDS[piece.band];
  if (piece.reason === undefined) {
    return {
      ...node,
      itemStyle: { color: colour(solid) },
      label: labelOf(piece, RINGS.fleets, RINGS.bands, colour("--surface")),
    };
  }
  return {
    ...node,
    itemStyle: {
      color: fill(pattern, colour(solid), colour(soft)),
      borderColor: colour(solid),
      borderWidth: 1,
    },
    label: labelOf(piece, RINGS.bands, RINGS.reasons, colour(solid)),
  };
}

/** A name along its piece, where the piece is long enough for it. */
function labelOf({ name }: Piece, from: number, to: number, colour: string): Label {
  const middlePx = ((from + to) / 200) * RADIUS_PX;
  const lengthPx = Math.min(name.length * CHARACTER_PX, LONGEST_LABEL_PX);
  const minAngle = (lengthPx / middlePx) * (180 / Math.PI);
  return { color: colour, width: LONGEST_LABEL_PX, minAngle };
}

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
