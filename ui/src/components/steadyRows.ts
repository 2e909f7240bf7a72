import { computed, type ComputedRef, ref, type Ref, watch } from "vue";

/**
 * Rows of a live list that never move under the pointer.
 *
 * While `held`, known rows take on their new values where they are; what came, went or moved
 * waits. `pending` says how many rows do. A new `page` (filter, order, cursor) is shown at once.
 */
export function useSteadyRows<T>(
  rows: () => readonly T[] | undefined,
  keyOf: (row: T) => string,
  held: Ref<boolean>,
  page: () => string,
): { shown: ComputedRef<{ row: T; isGone: boolean }[]>; pending: ComputedRef<number>; release: () => void } {
  const order = ref<string[]>([]);
  const gone = new Map<string, T>();
  const incoming = computed(() => new Map((rows() ?? []).map((row) => [keyOf(row), row])));

  function release(): void {
    order.value = [...incoming.value.keys()];
    gone.clear();
  }

  watch(
    [incoming, page, held] as const,
    ([now, thisPage, isHeld], [before, lastPage]) => {
      // Where nothing stands yet, nothing moves: a list is read while the pointer rests on it.
      if (!isHeld || thisPage !== lastPage || order.value.length === 0) {
        release();
        return;
      }
      // Kept as it was last seen, as long as it stands there.
      for (const [key, row] of before ?? []) if (!now.has(key)) gone.set(key, row);
    },
    { immediate: true },
  );

  const shown = computed(() =>
    order.value.flatMap((key) => {
      const row = incoming.value.get(key) ?? gone.get(key);
      return row === undefined ? [] : [{ row, isGone: !incoming.value.has(key) }];
    }),
  );
  const pending = computed(() => {
    const now = [...incoming.value.keys()];
    const known = new Set(order.value);
    const left = order.value.filter((key) => !incoming.value.has(key)).length;
    const came = now.filter((key) => !known.has(key)).length;
    const moved = now.filter((key, place) => known.has(key) && order.value[place] !== key).length;
    return Math.max(left, came) || moved;
  });
  return { shown, pending, release };
}
