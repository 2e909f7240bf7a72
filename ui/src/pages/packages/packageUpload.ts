import { useQueryClient } from "@tanstack/vue-query";
import { computed, ref, shallowRef } from "vue";

import { discardUpload, getUpload, listUploads, sendFile, type Sending, type UploadView } from "./upload";
import type { Upload } from "./verification";
import { api, unwrap } from "@/api/client";
import { ApiProblem, isProblem } from "@/api/problem";
import type { PackageDetail } from "@/api/resources";

const LOOK_EVERY_MS = 700;

/** One upload, from the choice of a file to the package or the reason why it is none. */
export function usePackageUpload() {
  const client = useQueryClient();
  const file = shallowRef<File>();
  const sentBytes = ref(0);
  const state = ref<Upload>();
  const seen = shallowRef<UploadView>();
  const error = shallowRef<unknown>();
  const uploaded = shallowRef<PackageDetail>();
  const open = shallowRef<UploadView[]>([]);
  let sending: Sending | undefined;
  /** Rises with each upload: what an older one still has to say is not heard. */
  let turn = 0;

  const isBusy = computed(() => ["sending", "paused", "verifying"].includes(state.value?.phase ?? ""));
  const waitsFor = computed(() => (state.value?.phase === "verifying" ? seen.value?.problem : null));

  function fail(problem: unknown): void {
    error.value = problem;
    state.value = { phase: "failed", code: isProblem(problem) ? problem.code : "" };
  }

  async function start(chosen: File): Promise<void> {
    reset();
    const mine = turn;
    file.value = chosen;
    state.value = { phase: "sending" };
    try {
      const begun = await sendFile(chosen, {
        onProgress: (bytes) => {
          if (mine === turn) sentBytes.value = bytes;
        },
        onSent: (id) => {
          if (mine === turn) void follow(id);
        },
        onError: (problem) => {
          if (mine === turn) fail(problem);
        },
      });
      if (mine === turn) sending = begun;
      else await begun.pause();
    } catch (problem) {
      if (mine === turn) fail(problem);
    }
  }

  async function pause(): Promise<void> {
    state.value = { phase: "paused" };
    await sending?.pause();
  }

  function resume(): void {
    error.value = undefined;
    state.value = { phase: "sending" };
    sending?.resume();
  }

  /** Give the upload up: the platform deletes what has come. */
  async function cancel(): Promise<void> {
    const given = sending;
    reset();
    await given?.cancel().catch(() => undefined); // it ends by itself after a day
    await findOpen();
  }

  async function discard(id: string): Promise<void> {
    try {
      await discardUpload(id);
    } catch (problem) {
      error.value = problem;
    }
    await findOpen();
  }

  /** Watch a whole upload until the platform has decided. */
  async function follow(id: string): Promise<void> {
    const mine = turn;
    state.value = { phase: "verifying", verifiedBytes: 0 };
    try {
      for (;;) {
        const found = await getUpload(id);
        if (mine !== turn) return;
        seen.value = found;
        state.value = { phase: "verifying", verifiedBytes: found.verified_bytes };
        if (found.state === "done" || found.state === "refused") break;
        await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
      }
      await conclude(seen.value);
    } catch (problem) {
      if (mine === turn) fail(problem);
    }
  }

  async function conclude(found: UploadView): Promise<void> {
    if (found.package_digest === null) {
      fail(
        new ApiProblem({
          status: 422,
          code: found.problem?.code ?? "",
          detail: found.problem?.detail ?? "The package was refused.",
          hint: found.problem?.hint ?? "",
        }),
      );
      return;
    }
    const mine = turn;
    const path = { digest: found.package_digest };
    const detail = await unwrap(api.GET("/api/v1/packages/{digest}", { params: { path } }));
    if (mine !== turn) return;
    uploaded.value = detail;
    state.value = { phase: "done" };
    void client.invalidateQueries({ queryKey: ["packages"] });
    void client.invalidateQueries({ queryKey: ["overview"] });
  }

  /** Find what was begun before, and go on watching what is being verified. */
  async function findOpen(): Promise<void> {
    const mine = turn;
    try {
      const found = await listUploads();
      if (mine !== turn || state.value !== undefined) return;
      open.value = found.filter((one) => one.state === "receiving");
      const verifying = found.find((one) => one.state === "verifying");
      if (verifying !== undefined) await follow(verifying.id);
    } catch (problem) {
      if (mine === turn) error.value = problem;
    }
  }

  /** Forget this upload here; what has come stays on the platform, and is gone on with later. */
  function reset(): void {
    turn += 1;
    void sending?.pause();
    sending = undefined;
    file.value = undefined;
    sentBytes.value = 0;
    state.value = undefined;
    seen.value = undefined;
    error.value = undefined;
    uploaded.value = undefined;
    open.value = [];
  }

  return {
    file,
    sentBytes,
    state,
    seen,
    error,
    uploaded,
    open,
    isBusy,
    waitsFor,
    start,
    pause,
    resume,
    cancel,
    discard,
    findOpen,
    reset,
  };
}
