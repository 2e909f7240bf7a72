import { computed, type ComputedRef } from "vue";

import { liveState, liveStateSince } from "./live";
import { useNow } from "@/time/clock";

/** A connection that is lost for less is nobody's business. */
const PATIENCE_MS = 8000;

/** How fresh what is shown can be; `staleForMs` while nothing new can come. */
export function useStanding(): ComputedRef<{
  state: "live" | "polling" | "connecting" | "stale";
  staleForMs: number;
}> {
  const now = useNow();
  return computed(() => {
    // The browser's own clock on both sides; `now` is what makes this be computed again.
    const lastingMs = now.value > 0 ? Date.now() - liveStateSince.value : 0;
    if (liveState.value === "live" || liveState.value === "polling") {
      return { state: liveState.value, staleForMs: 0 };
    }
    if (lastingMs < PATIENCE_MS) return { state: "connecting", staleForMs: 0 };
    return { state: "stale", staleForMs: lastingMs };
  });
}
