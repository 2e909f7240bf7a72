import type { ZRColor } from "./sunburst";
import type { Pattern } from "@/text/compliance";

const TILE = 8;
/** So much of the solid colour that a label on it is still read with ease. */
const STRENGTH = 0.3;

/** A ground in the soft colour with a pattern of the solid one, so that bands differ without colour
 * too. A tile, because the sunburst knows no decals. */
export function patternFill(pattern: Pattern, solid: string, soft: string): ZRColor {
  const scale = Math.ceil(devicePixelRatio);
  const tile = document.createElement("canvas");
  tile.width = tile.height = TILE * scale;
  const context = tile.getContext("2d");
  if (pattern === "plain" || context === null) return soft;
  context.scale(scale, scale);
  context.fillStyle = soft;
  context.fillRect(0, 0, TILE, TILE);
  context.globalAlpha = STRENGTH;
  context.fillStyle = context.strokeStyle = solid;
  context.beginPath();
  if (pattern === "dotted") {
    context.arc(TILE / 4, TILE / 4, 1, 0, 2 * Math.PI);
    context.arc((3 * TILE) / 4, (3 * TILE) / 4, 1, 0, 2 * Math.PI);
    context.fill();
  } else {
    // Past the corners, so that tiles join without a gap.
    for (const from of [-TILE, 0, TILE]) {
      context.moveTo(from, TILE);
      context.lineTo(from + TILE, 0);
      if (pattern === "crossed") {
        context.moveTo(from, 0);
        context.lineTo(from + TILE, TILE);
      }
    }
    context.lineWidth = 1.5;
    context.stroke();
  }
  return { image: tile, repeat: "repeat", scaleX: 1 / scale, scaleY: 1 / scale };
}
