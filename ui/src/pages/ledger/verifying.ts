import { onScopeDispose, ref, shallowRef } from "vue";

import { latestMemory, noteMemoryChanged } from "./remembered";
import type { Memory } from "@/ledger/memory";
import type { Verdict } from "@/ledger/verification";
import { serverNow } from "@/time/clock";

const AGAIN_MS = 1000;
const MOST_TRIES = 5;

/** Runs a verification, and again while `isSoon` says that the next checkpoint will tell more. */
export function useVerification(
  verify: (memory: Memory) => Promise<Verdict | undefined>,
  isSoon: (verdict: Verdict) => boolean = () => false,
) {
  const verdict = shallowRef<Verdict>();
  const isRunning = ref(false);
  const at = ref<number>();
  let run = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;

  async function start(tries = 0): Promise<void> {
    stop();
    const mine = run;
    isRunning.value = true;
    if (tries === 0) verdict.value = undefined;
    const found = await verify(latestMemory());
    noteMemoryChanged();
    if (mine !== run) return;
    isRunning.value = false;
    verdict.value = found;
    at.value = serverNow();
    if (found !== undefined && tries < MOST_TRIES && isSoon(found)) {
      timer = setTimeout(() => void start(tries + 1), AGAIN_MS);
    }
  }

  function stop(): void {
    run += 1;
    isRunning.value = false;
    clearTimeout(timer);
  }

  onScopeDispose(stop);
  return { verdict, isRunning, at, start: () => start(), stop };
}
