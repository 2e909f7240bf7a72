import { readonly, ref } from "vue";

export interface Toast {
  id: number;
  text: string;
  tone: "ok" | "bad";
}

const MOST = 4;
const SHOWN_MS = 6000;
const shown = ref<Toast[]>([]);
let last = 0;

export const toasts = readonly(shown);

/** Tell, for a few seconds, that something was done, or was not. */
export function tell(text: string, tone: Toast["tone"] = "ok"): void {
  last += 1;
  const id = last;
  shown.value = [...shown.value.slice(-(MOST - 1)), { id, text, tone }];
  setTimeout(() => dismiss(id), SHOWN_MS);
}

export function dismiss(id: number): void {
  shown.value = shown.value.filter((toast) => toast.id !== id);
}
