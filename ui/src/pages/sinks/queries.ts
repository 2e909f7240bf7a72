import { useMutation, useQuery, useQueryClient } from "@tanstack/vue-query";
import { computed, reactive } from "vue";

import type { Sink } from "./sinks";
import { api, unwrap } from "@/api/client";
import { Intent } from "@/api/intent";
import { may } from "@/session/session";

/** How far a sink has come is told by nobody: it is asked for. */
const LOOKED_AT_EVERY_MS = 5_000;
const BANNER_EVERY_MS = 30_000;

/** Every sink: they are few. */
export function useSinks() {
  return useQuery({
    queryKey: ["sinks"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/sinks", { signal })),
    refetchInterval: LOOKED_AT_EVERY_MS,
    meta: { live: { kinds: ["sink"], later: ["ledger"] } },
  });
}

/** The same, for the shell: what fails is told by a hint, so that it rarely asks. */
export function useSinksInTrouble() {
  return useQuery({
    queryKey: ["sinks", "trouble"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/sinks", { signal })),
    enabled: computed(() => may("sinks:read")),
    refetchInterval: BANNER_EVERY_MS,
    meta: { live: { kinds: ["sink"] } },
  });
}

export function useSink(id: string) {
  return useQuery({
    queryKey: ["sink", id],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/sinks/{sink_id}", { signal, params: { path: { sink_id: id } } })),
    refetchInterval: LOOKED_AT_EVERY_MS,
    meta: { live: { kinds: ["sink"], later: ["ledger"], id } },
  });
}

/** Something that people do to sinks, sent once however often an answer is lost on its way. */
export function useSinkChange<Value, Answer>(
  send: (value: Value, headers: { "Idempotency-Key": string }) => Promise<Answer>,
  onDone: (answer: Answer) => void = () => undefined,
) {
  const client = useQueryClient();
  const intent = new Intent();
  return reactive(
    useMutation({
      mutationFn: (value: Value) => send(value, { "Idempotency-Key": intent.keyFor(value ?? null) }),
      onSuccess: (answer) => {
        intent.done();
        onDone(answer);
      },
      onSettled: () =>
        Promise.all([
          client.invalidateQueries({ queryKey: ["sinks"] }),
          client.invalidateQueries({ queryKey: ["sink"] }),
          client.invalidateQueries({ queryKey: ["sink-letters"] }),
        ]),
      gcTime: 0,
    }),
  );
}

/** What is sent where a sink's id is all there is to say. */
export function pathOf(sink: Pick<Sink, "id">) {
  return { path: { sink_id: sink.id } };
}
