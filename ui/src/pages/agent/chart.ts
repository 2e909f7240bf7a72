import type { ComposeOption } from "echarts/core";
import type { LineSeriesOption } from "echarts/charts";
import type { GridComponentOption, TooltipComponentOption } from "echarts/components";

import type { Schemas } from "@/api/client";
import { formatMoment, formatTimeOfDay } from "@/text/format";

type Option = ComposeOption<LineSeriesOption | GridComponentOption | TooltipComponentOption>;
type Point = Schemas["TelemetryPoint"];

const ROWS = [
  { name: "CPU", mean: "cpu_percent", most: "cpu_percent_max", colour: "--accent" },
  { name: "Memory", mean: "memory_percent", most: "memory_percent_max", colour: "--note-mark" },
  { name: "Disk", mean: "disk_percent", most: undefined, colour: "--ok-mark" },
] as const;
const ROW_HEIGHT = 104;
const GAP = 34;
/** A gap of so many steps is drawn as one: nobody knows what was between. */
const GAP_STEPS = 3;

type Pair = [number, number | null];

/** A series with a hole where heartbeats are missing for longer than they may. */
export function seriesOf(points: readonly Point[], name: keyof Point, stepMs: number): Pair[] {
  const pairs: Pair[] = [];
  // Heartbeats may be further apart than a step: what is usual here is no gap.
  const distances = points
    .slice(1)
    .map((point, before) => Date.parse(point.at) - Date.parse(points[before]?.at ?? point.at))
    .sort((a, b) => a - b);
  const usual = distances[Math.floor(distances.length / 2)] ?? stepMs;
  let last: number | undefined;
  for (const point of points) {
    const at = Date.parse(point.at);
    if (last !== undefined && at - last > GAP_STEPS * Math.max(usual, stepMs)) {
      pairs.push([last + 1, null]);
    }
    pairs.push([at, point[name] as number | null]);
    last = at;
  }
  return pairs;
}

/** Three charts over one time axis, each from 0 to 100 %. */
export function chartOption(
  telemetry: Schemas["TelemetryView"],
  colour: (name: string) => string,
): Option {
  const stepMs = telemetry.step_s * 1000;
  const text = colour("--ink-3");
  const line = colour("--line");
  return {
    animation: false,
    textStyle: { fontFamily: "Inter Variable, system-ui, sans-serif" },
    axisPointer: { link: [{ xAxisIndex: "all" }], lineStyle: { color: colour("--ink-3") } },
    tooltip: {
      trigger: "axis",
      // Drawn, not written as HTML: the policy forbids it.
      renderMode: "richText",
      backgroundColor: colour("--raised"),
      borderColor: line,
      textStyle: { color: colour("--ink"), fontSize: 12 },
      formatter: (items) => tooltipText(telemetry.points, items),
    },
    grid: ROWS.map((_, row) => ({
      left: 44,
      right: 10,
      top: 20 + row * (ROW_HEIGHT + GAP),
      height: ROW_HEIGHT,
    })),
    xAxis: ROWS.map((_, row) => ({
      type: "time",
      gridIndex: row,
      min: Date.parse(telemetry.since),
      max: Date.parse(telemetry.until),
      axisLine: { lineStyle: { color: line } },
      axisTick: { show: false },
      axisLabel: { show: row === ROWS.length - 1, color: text, fontSize: 11, hideOverlap: true },
      splitLine: { show: false },
    })),
    yAxis: ROWS.map(({ name }, row) => ({
      type: "value",
      gridIndex: row,
      name,
      nameLocation: "end",
      nameGap: 10,
      nameTextStyle: { color: colour("--ink-2"), fontSize: 11, align: "left", padding: [0, 0, 0, 4] },
      min: 0,
      max: 100,
      interval: 50,
      axisLabel: { color: text, fontSize: 11, formatter: "{value} %" },
      splitLine: { lineStyle: { color: line } },
    })),
    series: ROWS.flatMap(({ mean, most, colour: name }, row) => {
      const base = {
        type: "line" as const,
        xAxisIndex: row,
        yAxisIndex: row,
        showSymbol: telemetry.points.length < 3,
        connectNulls: false,
      };
      const all: LineSeriesOption[] = [
        {
          ...base,
          data: seriesOf(telemetry.points, mean, stepMs),
          lineStyle: { width: 1.5, color: colour(name) },
          itemStyle: { color: colour(name) },
          areaStyle: { color: colour(name), opacity: 0.08 },
        },
      ];
      if (most !== undefined) {
        all.push({
          ...base,
          data: seriesOf(telemetry.points, most, stepMs),
          lineStyle: { width: 1, color: colour(name), opacity: 0.4, type: "dotted" },
          itemStyle: { color: colour(name) },
        });
      }
      return all;
    }),
  };
}

function tooltipText(points: readonly Point[], items: unknown): string {
  const first: unknown = Array.isArray(items) ? items[0] : items;
  const at = (first as { value?: Pair } | undefined)?.value?.[0];
  const point = points.find((one) => Date.parse(one.at) === at);
  if (at === undefined || point === undefined) return at === undefined ? "" : formatTimeOfDay(at);
  const figure = (mean: number, least: number, most: number): string =>
    least === most
      ? `${mean.toFixed(1)} %`
      : `${mean.toFixed(1)} % (${least.toFixed(1)} to ${most.toFixed(1)})`;
  return [
    formatMoment(at),
    `CPU ${figure(point.cpu_percent, point.cpu_percent_min, point.cpu_percent_max)}`,
    `Memory ${figure(point.memory_percent, point.memory_percent_min, point.memory_percent_max)}`,
    `Disk ${figure(point.disk_percent, point.disk_percent_min, point.disk_percent_max)}`,
    point.temperature_c_max === null ? "" : `At most ${point.temperature_c_max.toFixed(0)} °C`,
    point.degraded + point.errors === 0
      ? ""
      : `${point.degraded + point.errors} of ${point.heartbeats} heartbeats told of trouble`,
  ]
    .filter(Boolean)
    .join("\n");
}
