import { onScopeDispose, readonly, ref, type Ref } from "vue";

let offsetMs = 0;

/** Learn from an answer's Date header how wrong this machine's clock is; within two seconds,
 * which the header's resolution and the way here explain, it is right. */
export function noteServerTime(header: string | null, nowMs = Date.now()): void {
  const at = header === null ? Number.NaN : Date.parse(header);
  if (Number.isNaN(at)) return;
  const apart = at + 500 - nowMs;
  offsetMs = Math.abs(apart) < 2000 ? 0 : apart;
}

/** The platform's time in milliseconds. */
export function serverNow(): number {
  return Date.now() + offsetMs;
}

const now = ref(serverNow());
let watchers = 0;
let timer: ReturnType<typeof setInterval> | undefined;

/** The platform's time, renewed every second for everybody who shows ages. */
export function useNow(): Readonly<Ref<number>> {
  watchers += 1;
  now.value = serverNow();
  timer ??= setInterval(() => {
    now.value = serverNow();
  }, 1000);
  onScopeDispose(() => {
    watchers -= 1;
    if (watchers === 0) {
      clearInterval(timer);
      timer = undefined;
    }
  });
  return readonly(now);
}
