import { useMutation, useQuery, useQueryClient } from "@tanstack/vue-query";
import { reactive } from "vue";

import type { Kek } from "./keks";
import { api, unwrap } from "@/api/client";
import { Intent } from "@/api/intent";
import { isProblem } from "@/api/problem";

/** A hub looks at every key once a minute: what was seen then is seen here soon after. */
const LOOKED_AT_EVERY_MS = 60_000;

/** Every KEK there ever was. */
export function useKeks() {
  return useQuery({
    queryKey: ["keys"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/keys", { signal })),
    refetchInterval: LOOKED_AT_EVERY_MS,
    meta: { live: { kinds: ["trust"], later: ["package"] } },
  });
}

/** One KEK with its versions. */
export function useKek(id: string) {
  return useQuery({
    queryKey: ["key", id],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/keys/{kek_id}", { signal, params: { path: { kek_id: id } } })),
    refetchInterval: LOOKED_AT_EVERY_MS,
    meta: { live: { kinds: ["trust"], id } },
  });
}

export function useKeyProviders() {
  return useQuery({
    queryKey: ["key-providers"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/keys/providers", { signal })),
    staleTime: LOOKED_AT_EVERY_MS,
  });
}

/** Something that people do to keys, sent once however often an answer is lost on its way. */
export function useKeyChange<Value, Answer>(
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
      onError: (error) => {
        // Done before, its answer lost on the way: another attempt is another one.
        if (isProblem(error, "answer-not-kept")) intent.done();
      },
      onSettled: () =>
        Promise.all([
          client.invalidateQueries({ queryKey: ["keys"] }),
          client.invalidateQueries({ queryKey: ["key"] }),
          client.invalidateQueries({ queryKey: ["approvals"] }),
        ]),
      gcTime: 0,
    }),
  );
}

/** What is sent where a KEK's id is all there is to say. */
export function pathOf(kek: Pick<Kek, "id">) {
  return { path: { kek_id: kek.id } };
}
