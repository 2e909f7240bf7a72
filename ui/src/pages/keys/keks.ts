import type { Schemas } from "@/api/client";
import type { Tone } from "@/components/UiBadge.vue";
import { countOf, formatDuration, words } from "@/text/format";

export type Kek = Schemas["KekView"];
export type KekDetail = Schemas["KekDetail"];
export type KekVersion = Schemas["KekVersionView"];
export type RewrapJob = Schemas["RewrapJobView"];

const DAY_MS = 86_400_000;
/** As early as the ledger tells of it. */
export const WARN_BEFORE_MS = 14 * DAY_MS;

/** Whose secrets are under it. */
export function ownerOf(kek: Pick<Kek, "fleet">): string {
  return kek.fleet === null ? "The platform" : kek.fleet;
}

export function isOver(kek: Pick<Kek, "state">): boolean {
  return kek.state === "retired";
}

/** Whether its imported material is over, told or not. */
export function isExpired(kek: Pick<Kek, "expires_at">, nowMs: number): boolean {
  return kek.expires_at !== null && Date.parse(kek.expires_at) <= nowMs;
}

export function expiresSoon(kek: Pick<Kek, "expires_at" | "state">, nowMs: number): boolean {
  if (kek.expires_at === null || isOver(kek) || isExpired(kek, nowMs)) return false;
  return Date.parse(kek.expires_at) - nowMs <= WARN_BEFORE_MS;
}

/** Whether its fleet, or the platform, has to do without it now. */
export function isGone(kek: Pick<Kek, "state" | "taken_away" | "expires_at">, nowMs: number): boolean {
  return !isOver(kek) && (kek.taken_away || isExpired(kek, nowMs));
}

/** How a KEK stands, in one or two words; the worst first. */
export function standingOf(
  kek: Pick<Kek, "state" | "taken_away" | "trouble_code" | "expires_at" | "misplaced">,
  nowMs: number,
): { label: string; tone: Tone } {
  if (isOver(kek)) return { label: "Retired", tone: "quiet" };
  if (isExpired(kek, nowMs)) return { label: "Material expired", tone: "bad" };
  if (kek.taken_away) return { label: "Taken away", tone: "bad" };
  if (kek.trouble_code !== null) {
    return isPassing(kek.trouble_code)
      ? { label: "No answer", tone: "warn" }
      : { label: "Not usable", tone: "bad" };
  }
  if (expiresSoon(kek, nowMs)) return { label: "Expires soon", tone: "warn" };
  if (kek.state === "former") return { label: "Being emptied", tone: "note" };
  return { label: "In use", tone: "ok" };
}

/** Whether the platform tries again by itself, and denies nobody meanwhile. */
export function isPassing(code: string): boolean {
  return code === "key-provider-throttled" || code === "key-provider-unavailable";
}

const TROUBLES: Record<string, { what: string; remedy: string }> = {
  "key-disabled": {
    what: "The key, or the version that secrets are under, is disabled at its provider.",
    remedy: "Its owner enables it again there.",
  },
  "key-missing": {
    what: "There is no such key, version or material at its provider any more.",
    remedy: "Its owner restores it, or its material is imported again.",
  },
  "key-pending-deletion": {
    what: "The key is about to be destroyed at its provider.",
    remedy: "Its owner cancels the deletion before its time is over.",
  },
  "key-permission-denied": {
    what: "The platform's account may not use the key any more.",
    remedy: "Its owner lets the account wrap and unwrap with it again.",
  },
  "key-provider-throttled": {
    what: "The provider asks to be called less often.",
    remedy: "The platform calls again by itself.",
  },
  "key-provider-unavailable": {
    what: "The provider does not answer in time.",
    remedy: "The platform calls again by itself. Does this machine reach it?",
  },
  "missing-extra": {
    what: "The provider's library is not installed where the platform runs.",
    remedy: "Install it there, and start hub and api again.",
  },
};
const EXPIRED = {
  what: "The imported key material is over.",
  remedy: "Import material again, below.",
};

/** What is wrong with a KEK and who mends it; undefined where nothing is. */
export function troubleOf(
  kek: Pick<Kek, "state" | "trouble_code" | "expires_at">,
  nowMs: number,
): { what: string; remedy: string } | undefined {
  if (isOver(kek)) return undefined;
  if (isExpired(kek, nowMs)) return EXPIRED;
  if (kek.trouble_code === null) return undefined;
  return (
    TROUBLES[kek.trouble_code] ?? {
      what: `It cannot be used: ${words(kek.trouble_code).toLowerCase()}.`,
      remedy: "The platform's log says more.",
    }
  );
}

/** What follows while a KEK cannot be used, in sentences. */
export function consequencesOf(
  kek: Pick<Kek, "fleet" | "trouble_code" | "taken_away" | "state" | "expires_at">,
  nowMs: number,
): string[] {
  if (!isGone(kek, nowMs) && kek.trouble_code !== null && isPassing(kek.trouble_code)) {
    return [
      "Nobody is denied: requests for model keys wait, and agents repeat them.",
      "What a hub has opened within the last five minutes goes on to be granted.",
    ];
  }
  if (kek.fleet !== null) {
    return [
      `Agents of ${kek.fleet} are granted no model keys, and are told why. Every denial is in the ledger.`,
      "What they have decrypted runs on. A package that is sealed on the device does not start again.",
      "Other fleets notice nothing.",
      "When the key is back, the platform finds out within about a minute and grants go on by themselves.",
    ];
  }
  return [
    "Agents of every fleet without a key of its own are granted no model keys, after five minutes at most.",
    "No package can be uploaded, no second factor checked, and no fleet gets its first copy of a package's key.",
    "What runs goes on. A hub or an api that is started now does not come up.",
    "When the key is back, the platform finds out within about a minute and goes on by itself.",
  ];
}

const PURPOSES: Record<string, { one: string; many: string; text: string }> = {
  dek: {
    one: "package key",
    many: "package keys",
    text: "The key (DEK) that a package's content is encrypted with.",
  },
  "fleet-dek": {
    one: "package key for the fleet",
    many: "package keys for the fleet",
    text: "A copy of a package's key (DEK), made when the fleet's agents first asked for it.",
  },
  "ca-key": {
    one: "CA key",
    many: "CA keys",
    text: "The private key that signs the certificates of agents.",
  },
  "recipient-key": {
    one: "recipient key",
    many: "recipient keys",
    text: "The private key that opens what publishers upload.",
  },
  "download-url-key": {
    one: "download key",
    many: "download keys",
    text: "Signs the links by which agents fetch packages.",
  },
  "privacy-key": {
    one: "privacy key",
    many: "privacy keys",
    text: "Seals the keys of what the ledger says about persons; those can be erased.",
  },
  totp: {
    one: "second factor",
    many: "second factors",
    text: "What people's authenticators show codes of.",
  },
};
const SIGNING = "signing-key-";
const SIGNED: Record<string, string> = {
  desired: "deployments",
  grant: "grants",
  command: "commands",
  config: "configurations",
  ledger: "the ledger",
};

/** What secrets of a purpose are, counted: "3 package keys". */
export function textOfUse({ purpose, secrets }: Schemas["KekUse"]): string {
  if (purpose.startsWith(SIGNING)) {
    return countOf(secrets, `signing key for ${signedBy(purpose)}`, `signing keys for ${signedBy(purpose)}`);
  }
  const { one, many } = PURPOSES[purpose] ?? fallback(purpose);
  return countOf(secrets, one, many);
}

/** What is under a KEK, each with what it is for; all signing keys as one. */
export function describeUses(uses: Kek["uses"]): { title: string; text: string }[] {
  const signing = uses.filter(({ purpose }) => purpose.startsWith(SIGNING));
  const others = uses
    .filter((use) => !signing.includes(use))
    .map((use) => ({ title: textOfUse(use), text: PURPOSES[use.purpose]?.text ?? "" }));
  if (signing.length === 0) return others;
  const count = signing.reduce((sum, { secrets }) => sum + secrets, 0);
  const what = signing.map(({ purpose }) => signedBy(purpose)).join(", ");
  return [
    ...others,
    {
      title: countOf(count, "signing key"),
      text: `By these agents and auditors know that the platform said something: ${what}.`,
    },
  ];
}

function signedBy(purpose: string): string {
  const role = purpose.slice(SIGNING.length);
  return SIGNED[role] ?? role;
}

function fallback(purpose: string): { one: string; many: string } {
  const text = words(purpose).toLowerCase();
  return { one: text, many: text };
}

/** How far a job is; `total` grows where secrets were sealed under the former version meanwhile. */
export function progressOf(job: Pick<RewrapJob, "total" | "moved" | "left" | "state">): {
  done: number;
  total: number;
  percent: number;
} {
  if (job.state === "done") return { done: job.moved, total: job.moved, percent: 100 };
  const total = Math.max(job.total, job.left);
  const done = total - job.left;
  // The last of many is not there before it is there.
  const percent = total === 0 ? 0 : Math.min(99, Math.floor((100 * done) / total));
  return { done, total, percent };
}

/** How long what is left takes at a job's rate; empty where it does not go on. */
export function timeLeft(job: Pick<RewrapJob, "left" | "per_second" | "state" | "retry_at">): string {
  if (job.state !== "running" || job.retry_at !== null || job.left === 0) return "";
  return `about ${formatDuration(Math.max(1000, (1000 * job.left) / job.per_second))} left`;
}
