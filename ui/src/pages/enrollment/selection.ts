import { computed, type ComputedRef, ref } from "vue";

/** So many are decided in one request. */
export const MOST_SELECTED = 500;

export interface Selection {
  ids: ComputedRef<string[]>;
  has: (id: string) => boolean;
  /** Add or remove some; what is over the limit stays out. */
  set: (ids: readonly string[], isSelected: boolean) => void;
  clear: () => void;
}

/** Which rows are chosen; it outlasts the page of the list that they were chosen on. */
export function useSelection(): Selection {
  const chosen = ref(new Set<string>());
  return {
    ids: computed(() => [...chosen.value]),
    has: (id) => chosen.value.has(id),
    set: (ids, isSelected) => {
      for (const id of ids) {
        if (!isSelected) chosen.value.delete(id);
        else if (chosen.value.size < MOST_SELECTED) chosen.value.add(id);
      }
    },
    clear: () => chosen.value.clear(),
  };
}
