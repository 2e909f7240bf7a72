import { computed, type ComputedRef } from "vue";
import { type LocationQueryRaw, useRoute, useRouter } from "vue-router";

/** Where each cursor was come from, so that "previous" leads back; lost with the page, and then
 * "previous" leads to the first. */
const trail = new Map<string, string>();
const MOST = 2000;

/** The state of a list, in the URL: whoever gets the link sees the same. */
export function useListQuery(names: readonly string[]): {
  values: ComputedRef<Record<string, string>>;
  cursor: ComputedRef<string | undefined>;
  isFiltered: ComputedRef<boolean>;
  set: (changes: Record<string, string>) => void;
  clear: () => void;
  next: (cursor: string) => void;
  previous: () => void;
  first: () => void;
} {
  const route = useRoute();
  const router = useRouter();
  const values = computed(() =>
    Object.fromEntries(names.map((name) => [name, single(route.query[name])])),
  );
  const cursor = computed(() => single(route.query.cursor) || undefined);
  const isFiltered = computed(() =>
    names.some((name) => name !== "sort" && values.value[name] !== ""),
  );

  function go(query: LocationQueryRaw, replace: boolean): void {
    const kept = Object.fromEntries(Object.entries(query).filter(([, value]) => value));
    void router[replace ? "replace" : "push"]({ query: kept });
  }

  function set(changes: Record<string, string>): void {
    go({ ...route.query, cursor: undefined, ...changes }, true);
  }

  return {
    values,
    cursor,
    isFiltered,
    set,
    clear: () => go({ sort: single(route.query.sort) }, true),
    next: (to) => {
      if (trail.size >= MOST) trail.clear();
      trail.set(to, cursor.value ?? "");
      go({ ...route.query, cursor: to }, false);
    },
    previous: () => go({ ...route.query, cursor: trail.get(cursor.value ?? "") }, false),
    first: () => go({ ...route.query, cursor: undefined }, false),
  };
}

function single(value: unknown): string {
  const one: unknown = Array.isArray(value) ? value[0] : value;
  return typeof one === "string" ? one : "";
}
