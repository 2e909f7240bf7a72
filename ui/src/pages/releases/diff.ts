import type { Schemas } from "@/api/client";
import type { Release } from "@/api/resources";
import { formatBytes, formatMoment, formatNumber, words } from "@/text/format";

type FieldChange = Schemas["FieldChangeView"];
type FileChange = Schemas["FileChangeView"];

const FIELDS: Record<string, string> = {
  name: "Name",
  version: "Version",
  seq: "Sequence",
  created: "Built",
  not_before: "Valid from",
  not_after: "Valid until",
  min_agent: "Agents from version",
  "target.fleets": "For fleets",
  "target.selector": "For agents with",
  "target.hardware": "For hardware",
  "payload.size": "Payload",
};

/** What a value of the manifest is called: "provenance.git_commit" by its own last part. */
export function fieldLabel(path: string): string {
  return FIELDS[path] ?? words(path.replaceAll(".", ": "));
}

/** Seconds since 1970, as manifests hold them. */
const EPOCHS_S = ["created", "not_before", "not_after"];
const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d/;

/** A value of the manifest as people read it; "–" where it is not there. */
export function fieldValue(path: string, value: FieldChange["before"]): string {
  if (value === null || value === undefined || value === "") return "–";
  if (Array.isArray(value)) return value.length === 0 ? "any" : value.join(", ");
  if (typeof value === "number" && EPOCHS_S.includes(path)) return formatMoment(value * 1000);
  if (typeof value === "number") {
    return path.endsWith("size") ? formatBytes(value) : formatNumber(value);
  }
  if (typeof value === "string") return MOMENT.test(value) ? formatMoment(value) : value;
  return JSON.stringify(value);
}

/** "+1.2 MiB": how much a file has grown; empty where it came or went. */
export function growth(file: Pick<FileChange, "before_bytes" | "after_bytes">): string {
  const { before_bytes: before, after_bytes: after } = file;
  if (before === null || after === null || before === after) return "";
  return `${after > before ? "+" : "−"}${formatBytes(Math.abs(after - before))}`;
}

/** With what a release is compared unless somebody says otherwise: the one of its name before it.
 * `all` are the newest first. */
export function predecessorOf(release: Release, all: readonly Release[]): Release | undefined {
  const older = all.filter((one) => one.id !== release.id && one.created_at <= release.created_at);
  return older.find(({ name }) => name === release.name) ?? older[0];
}
