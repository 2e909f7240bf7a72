import type { Schemas } from "@/api/client";
import type { Tone } from "@/components/UiBadge.vue";
import { words } from "@/text/format";

export type Command = Schemas["CommandView"];
export type CommandKind = Schemas["CommandCreate"]["kind"];

export const COMMANDS: { kind: CommandKind; title: string; text: string }[] = [
  {
    kind: "diagnostics",
    title: "Diagnostics",
    text: "The agent tells how it and its device are.",
  },
  {
    kind: "collect-logs",
    title: "Collect logs",
    text: "The agent sends the newest lines of its own log, at most 300.",
  },
  {
    kind: "set-tags",
    title: "Set tags",
    text: "The agent's tags become just these. Selectors see it at once: it may join deployments, or leave those that have not told it yet.",
  },
  {
    kind: "restart",
    title: "Restart",
    text: "The agent ends and starts again. The model stands still for as long as that takes.",
  },
];

/** The way of a command that goes well. */
export const STEPS = ["queued", "sent", "acknowledged", "done"] as const;

/** How many of the steps it has gone. */
export function stepOf(command: Pick<Command, "state" | "sent_at">): number {
  const place = (STEPS as readonly string[]).indexOf(command.state);
  if (place >= 0) return place + 1;
  if (command.state === "expired") return command.sent_at === null ? 1 : 2;
  return 3; // failed and refused come from the agent, after it has read the command
}

export function commandTone(state: string): Tone {
  if (state === "done") return "ok";
  if (state === "failed" || state === "refused") return "bad";
  if (state === "expired") return "warn";
  return "accent";
}

export function isOpen(command: Pick<Command, "state">): boolean {
  return ["queued", "sent", "acknowledged"].includes(command.state);
}

/** What a state means for who waits. */
export function stateText(state: string): string {
  const texts: Record<string, string> = {
    queued: "It is sent when the agent is next heard of.",
    sent: "The agent has not confirmed it yet.",
    acknowledged: "The agent is at it.",
    expired: "The agent was not heard of in time; it will not run it any more.",
  };
  return texts[state] ?? "";
}

/** A result as text to read: the lines of a log, or JSON. */
export function resultText(command: Pick<Command, "kind" | "result">): string {
  const { result } = command;
  if (result === null || Object.keys(result).length === 0) return "";
  const { lines, reason } = result as { lines?: unknown; reason?: unknown };
  if (Array.isArray(lines)) return lines.map(String).join("\n");
  if (typeof reason === "string" && Object.keys(result).length === 1) return reason;
  return JSON.stringify(result, null, 2);
}

export function isLog(command: Pick<Command, "result">): boolean {
  return Array.isArray((command.result as { lines?: unknown } | null)?.lines);
}

export function commandTitle(kind: string): string {
  return COMMANDS.find((one) => one.kind === kind)?.title ?? words(kind);
}

/** The tags that a command sets. */
export function tagsOf(command: Pick<Command, "arguments">): string {
  const { tags } = command.arguments;
  return typeof tags === "object" && tags !== null ? showTags(tags as Record<string, unknown>) : "";
}

/** Tags as their field shows them. */
export function showTags(tags: Readonly<Record<string, unknown>>): string {
  return Object.entries(tags)
    .map(([key, value]) => `${key}=${String(value)}`)
    .sort()
    .join(", ");
}
