import { shallowRef, triggerRef } from "vue";

import { Memory } from "@/ledger/memory";

/** What this browser remembers of the ledger, for whoever shows it. */
export const remembered = shallowRef(Memory.read());

// Another tab of this browser has pinned a key, or seen a newer checkpoint.
addEventListener("storage", () => latestMemory());

/** What is remembered now, by this tab or another. */
export function latestMemory(): Memory {
  if (remembered.value.isKept) remembered.value = Memory.read();
  return remembered.value;
}

/** Let whoever shows it know that it has changed. */
export function noteMemoryChanged(): void {
  triggerRef(remembered);
}
