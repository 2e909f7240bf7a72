import { computed, type ComputedRef } from "vue";

import { expiresSoon, isGone, isOver, type Kek } from "./keks";
import { providerName } from "./providers";
import { useListQuery } from "@/components/listQuery";

export const FILTERS = [
  { name: "used", text: "In use" },
  { name: "trouble", text: "In trouble" },
  { name: "expiring", text: "Expiring soon" },
  { name: "rewrap", text: "To be rewrapped" },
  { name: "retired", text: "Retired" },
] as const;
export type FilterName = (typeof FILTERS)[number]["name"];

/** Whether a KEK belongs under a filter's name. */
export function passes(kek: Kek, filter: FilterName, nowMs: number): boolean {
  if (filter === "retired") return isOver(kek);
  if (isOver(kek)) return false;
  switch (filter) {
    case "used":
      return true;
    case "trouble":
      return kek.trouble_code !== null || isGone(kek, nowMs);
    case "expiring":
      return expiresSoon(kek, nowMs);
    case "rewrap":
      return kek.misplaced > 0;
  }
}

/** Whether some text stands in what a KEK is called. */
export function matches(kek: Pick<Kek, "fleet" | "reference" | "provider">, text: string): boolean {
  const wanted = text.trim().toLowerCase();
  const names = [kek.fleet ?? "", kek.reference, providerName(kek.provider)];
  return names.some((name) => name.toLowerCase().includes(wanted));
}

/** By fleet, of one fleet the newest first: rows stay where they are, whatever happens to keys. */
export function ordered(keks: readonly Kek[]): Kek[] {
  return [...keks].sort(
    (a, b) =>
      (a.fleet ?? "").localeCompare(b.fleet ?? "") || b.created_at.localeCompare(a.created_at),
  );
}

/** Fleets' keys as people look for them; what they look for stands in the URL. */
export function useFilteredKeks(
  keks: () => readonly Kek[],
  nowMs: () => number,
): {
  shown: ComputedRef<Kek[]>;
  counts: ComputedRef<Record<FilterName, number>>;
  text: ComputedRef<string>;
  filter: ComputedRef<FilterName>;
  isFiltered: ComputedRef<boolean>;
  setText: (text: string) => void;
  setFilter: (name: string) => void;
  clear: () => void;
} {
  const list = useListQuery(["q", "state"]);
  const text = computed(() => list.values.value.q ?? "");
  const filter = computed<FilterName>(
    () => FILTERS.find(({ name }) => name === list.values.value.state)?.name ?? "used",
  );
  const counts = computed(
    () =>
      Object.fromEntries(
        FILTERS.map(({ name }) => [name, keks().filter((kek) => passes(kek, name, nowMs())).length]),
      ) as Record<FilterName, number>,
  );
  const shown = computed(() =>
    ordered(
      keks().filter((kek) => passes(kek, filter.value, nowMs()) && matches(kek, text.value)),
    ),
  );
  return {
    shown,
    counts,
    text,
    filter,
    isFiltered: list.isFiltered,
    setText: (q) => list.set({ q }),
    setFilter: (name) => list.set({ state: name === "used" ? "" : name }),
    clear: list.clear,
  };
}
