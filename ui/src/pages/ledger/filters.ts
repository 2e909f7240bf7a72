import type { operations } from "@/api/schema";
import { SECURITY_TYPES } from "@/text/ledger";

export type EntryQuery = NonNullable<
  operations["list_entries_api_v1_ledger_entries_get"]["parameters"]["query"]
>;
/** What a list, a count and an export take alike. */
export type EntryFilter = Pick<
  EntryQuery,
  "type" | "without" | "fleet" | "subject" | "actor" | "outcome" | "not_before" | "before"
> & { epoch?: number };

export const FILTERS = [
  "type",
  "fleet",
  "outcome",
  "subject",
  "actor",
  "from",
  "until",
  "routine",
  "epoch",
] as const;
export const OUTCOMES = ["success", "failure", "denied"] as const;
/** A choice of types that has a name of its own. */
export const SECURITY = "security";
/** What devices write by the thousand when all is well. */
export const ROUTINE_TYPES = ["agent.reported.self-test", "agent.reported.model.inference"];
export const SHOWN = "shown";
const MOST_TYPES = 50;
const ID = /^[A-Za-z0-9._:/ -]{1,200}$/;

/** The types, or dotted beginnings of some, that a URL names; a word that is none is left out. */
export function typesOf(text: string): string[] {
  const named = text.split(",").filter((one) => /^[a-z0-9.-]{1,100}$/.test(one));
  return [...new Set(named)].slice(0, MOST_TYPES);
}

/** Of the routine types those that the choice would let through by a wider word, or by none;
 * whoever names one of them exactly wants to see it. */
export function hiddenTypes(values: Record<string, string>): string[] {
  if (values.routine === SHOWN) return [];
  const chosen = apiTypesOf(values);
  return ROUTINE_TYPES.filter(
    (routine) =>
      !chosen.includes(routine) &&
      (chosen.length === 0 || chosen.some((one) => routine.startsWith(`${one}.`))),
  );
}

function apiTypesOf(values: Record<string, string>): string[] {
  const named = typesOf(values.type ?? "");
  return [
    ...new Set(named.flatMap((one) => (one === SECURITY ? SECURITY_TYPES : [one]))),
  ].slice(0, MOST_TYPES);
}

/** What a page's URL asks for, as the api takes it; what is no filter is left out. */
export function filterOf(values: Record<string, string>): EntryFilter {
  const types = apiTypesOf(values);
  const without = hiddenTypes(values);
  const outcome = OUTCOMES.find((one) => one === values.outcome);
  const epoch = Number(values.epoch);
  return {
    type: types.length > 0 ? types : undefined,
    without: without.length > 0 ? without : undefined,
    fleet: values.fleet || undefined,
    subject: idOf(values.subject),
    actor: idOf(values.actor),
    outcome: outcome === undefined ? undefined : [outcome],
    not_before: momentOf(values.from),
    before: momentOf(values.until),
    epoch: Number.isSafeInteger(epoch) && epoch >= 1 ? epoch : undefined,
  };
}

/** What the routine types hide of a list: undefined where nothing is hidden. */
export function hiddenFilterOf(values: Record<string, string>): EntryFilter | undefined {
  const type = hiddenTypes(values);
  return type.length === 0 ? undefined : { ...filterOf(values), without: undefined, type };
}

/** Whether the text can be somebody's id. */
export function isId(text: string): boolean {
  return ID.test(text);
}

function idOf(text: string | undefined): string | undefined {
  return text !== undefined && isId(text) ? text : undefined;
}

function momentOf(text: string | undefined): string | undefined {
  const at = Date.parse(text ?? "");
  return Number.isNaN(at) ? undefined : new Date(at).toISOString();
}

/** A moment as a field of this browser takes it: in its own time zone, to the minute. */
export function toField(text: string | undefined): string {
  const at = Date.parse(text ?? "");
  if (Number.isNaN(at)) return "";
  const offset = new Date(at).getTimezoneOffset() * 60_000;
  return new Date(at - offset).toISOString().slice(0, 16);
}

/** What such a field holds, as it stands in the URL. */
export function fromField(text: string): string {
  const at = Date.parse(text);
  return Number.isNaN(at) ? "" : new Date(at).toISOString();
}

/** The filter as the api's query string, for a link. */
export function searchOf(filter: Record<string, unknown>): URLSearchParams {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(filter)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") found.append(name, String(one));
    }
  }
  return found;
}

const DAY_LENGTH = "2026-01-01".length;

/** The compliance report of a list's fleet and of the days that it is from: its page's query. */
export function reportOf(values: Record<string, string>): Record<string, string> {
  const from = momentOf(values.from);
  const until = momentOf(values.until);
  const fleet: Record<string, string> = values.fleet ? { fleet: values.fleet } : {};
  if (from === undefined && until === undefined) return fleet;
  const first = from?.slice(0, DAY_LENGTH);
  // What ends at midnight ends with the day before.
  const last = until && new Date(Date.parse(until) - 1).toISOString().slice(0, DAY_LENGTH);
  return { ...fleet, period: "own", ...(first && { first }), ...(last && { last }) };
}
