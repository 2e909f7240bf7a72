import { keepPreviousData, useQuery } from "@tanstack/vue-query";
import { computed, reactive, ref, type Ref, watch } from "vue";

import { api, type Schemas, unwrap } from "@/api/client";

const PAUSE_MS = 300;
type Plan = Schemas["DeploymentPlan"];

/** Who would get it, read when the typing pauses; undefined: the plan is not complete. The lots are
 * drawn once, so that a change of the plan does not shuffle the agents. */
export function usePreview(plan: Ref<Plan | undefined>) {
  const settled = ref("");
  const draw = ref<string>();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const wanted = computed(() => (plan.value === undefined ? "" : JSON.stringify(plan.value)));
  watch(
    wanted,
    (text) => {
      clearTimeout(timer);
      timer = setTimeout(
        () => {
          settled.value = text;
        },
        settled.value === "" ? 0 : PAUSE_MS,
      );
    },
    { immediate: true },
  );
  const query = reactive(
    useQuery({
      queryKey: ["preview", settled],
      queryFn: async ({ signal }) => {
        const body = { ...(JSON.parse(settled.value) as Plan), draw: draw.value ?? null };
        const found = await unwrap(api.POST("/api/v1/deployments/preview", { signal, body }));
        draw.value = found.draw ?? undefined;
        return found;
      },
      enabled: computed(() => settled.value !== ""),
      placeholderData: keepPreviousData,
      gcTime: 0,
      meta: { live: { kinds: ["overview"], later: ["agent"] } },
    }),
  );
  /** Whether what is shown is of the plan as it stands. */
  const isFresh = computed(
    () =>
      wanted.value !== "" &&
      settled.value === wanted.value &&
      query.data !== undefined &&
      !query.isPlaceholderData &&
      query.error === null,
  );
  return { query, draw, isFresh };
}
