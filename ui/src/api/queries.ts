import { QueryClient } from "@tanstack/vue-query";

import { isProblem } from "./problem";
import type { Liveness } from "@/live/hint";

declare module "@tanstack/vue-query" {
  interface Register {
    queryMeta: { live?: Liveness };
    defaultError: Error;
  }
}

export function newQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        // Offline or not, the api on this machine may answer.
        networkMode: "always",
        staleTime: 2000,
        gcTime: 5 * 60_000,
        retry: (failures, error) => failures < 2 && isProblem(error) && error.isPassing,
        retryDelay: (failures) => Math.random() * 500 * 2 ** failures + 200,
      },
      mutations: { networkMode: "always", retry: false },
    },
  });
}
