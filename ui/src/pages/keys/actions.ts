import { isExpired, isOver, type Kek, type KekVersion } from "./keks";
import { type Provider, providerName } from "./providers";
import { countOf } from "@/text/format";

export type Action = "check" | "rotate" | "rewrap" | "import" | "migrate" | "remove";

const OVER = "This key is not in use any more.";
const LEFT = "Another key has taken over: this one is only read from, until nothing is under it.";
const GONE = "The key cannot be used at the moment. It has to be back first.";
const AT_WORK = "A job is moving secrets. It has to end first.";

function isAtWork(kek: Pick<Kek, "job">): boolean {
  return kek.job?.state === "running";
}

/** Why something cannot be done to a KEK now, in words; empty where it can. The api decides: this
 * spares people the question. */
export function whyNot(
  action: Action,
  kek: Pick<Kek, "state" | "taken_away" | "expires_at" | "misplaced" | "job" | "secrets">,
  nowMs: number,
  others: readonly Pick<Kek, "job">[] = [],
): string {
  if (isOver(kek)) return OVER;
  if (action === "check") return "";
  if (kek.state === "former") return LEFT;
  const isAway = kek.taken_away || isExpired(kek, nowMs);
  switch (action) {
    case "rotate":
      return isAway ? GONE : "";
    case "rewrap":
      if (isAtWork(kek)) return "A job is at it.";
      if (kek.misplaced === 0) {
        return kek.secrets === 0
          ? "Nothing is under this key yet."
          : "Every secret is under its newest version.";
      }
      return isAway ? GONE : "";
    case "migrate":
      return [kek, ...others].some(isAtWork) ? AT_WORK : "";
    case "remove":
      return isAtWork(kek) ? AT_WORK : "";
    case "import":
      return "";
  }
}

export type VersionAction = "disable" | "enable" | "destroy";

type Abilities = Pick<Provider, "name" | "disables_versions" | "destroys_versions">;

/** Whether a provider can do something to one version of a key at all. */
export function canEver(action: VersionAction, provider: Abilities | undefined): boolean {
  if (provider === undefined) return true;
  return action === "destroy" ? provider.destroys_versions : provider.disables_versions;
}

/** What a provider does to whole keys only, and where; empty where there is no such thing. */
export function doneElsewhere(provider: Abilities | undefined): string {
  if (provider === undefined) return "";
  const verbs = [
    ...(provider.disables_versions ? [] : ["disables"]),
    ...(provider.destroys_versions ? [] : ["destroys"]),
  ];
  if (verbs.length === 0) return "";
  const what = `${providerName(provider.name)} ${verbs.join(" and ")} whole keys only`;
  return `${what}: do it there, when no secret is under this one any more.`;
}

/** Why a version can be neither disabled nor destroyed now; empty where it can. */
export function whyNotVersion(
  action: VersionAction,
  kek: Pick<Kek, "state" | "job">,
  version: Pick<KekVersion, "is_current" | "secrets">,
): string {
  if (isOver(kek)) return OVER;
  if (action === "enable") return "";
  if (isAtWork(kek)) return AT_WORK;
  if (version.is_current) return "What is new is wrapped under it. Rotate first.";
  if (version.secrets > 0) {
    const one = version.secrets === 1;
    return `${countOf(version.secrets, "secret")} ${one ? "is" : "are"} under it. Rewrap first.`;
  }
  return "";
}
