import { computed, ref, watch } from "vue";

import { loadSession, session } from "./session";
import { api, type Demand, onSecondFactorDemanded, unwrap } from "@/api/client";

const demanded = ref<Demand>();
const isOpened = ref(false);
let waiting: ((isMet: boolean) => void)[] = [];

/** Whether a request waits for a code. */
export const asksForCode = computed(() => demanded.value === "step-up-required");
/** Whether a request waits for somebody who has nothing yet that makes codes. */
export const asksForSetUp = computed(() => demanded.value === "second-factor-missing");
/** Whether the dialog of one's second factor is open, by the menu or because a request waits. */
export const isSecondFactorOpen = computed({
  get: () => isOpened.value || asksForSetUp.value,
  set: (open) => {
    isOpened.value = open;
    if (!open && asksForSetUp.value) settle(false);
  },
});

/** Give up: whoever waits is told what the api said. */
export function refuse(): void {
  settle(false);
}

function settle(isMet: boolean): void {
  demanded.value = undefined;
  const all = waiting;
  waiting = [];
  for (const resolve of all) resolve(isMet);
}

/** Show a code, for what asked for one. Throws ApiProblem. */
export async function stepUp(code: string): Promise<void> {
  await unwrap(api.POST("/api/v1/session/step-up", { body: { code } }));
  settle(true);
  await loadSession();
}

/** Ask for a secret to keep. Throws ApiProblem. */
export function beginSecondFactor(password: string): Promise<{ secret: string; uri: string }> {
  return unwrap(api.POST("/api/v1/session/second-factor", { body: { password } }));
}

/** Prove that the secret is kept: from then on it counts. Throws ApiProblem. */
export async function confirmSecondFactor(code: string): Promise<void> {
  await unwrap(api.POST("/api/v1/session/second-factor/confirm", { body: { code } }));
  await loadSession();
  if (asksForSetUp.value) settle(true);
}

/** Throws ApiProblem. */
export async function removeSecondFactor(code: string): Promise<void> {
  await unwrap(api.DELETE("/api/v1/session/second-factor", { body: { code } }));
  await loadSession();
}

function meet(demand: Demand): Promise<boolean> {
  if (session.value === null) return Promise.resolve(false);
  demanded.value = demand;
  return new Promise((resolve) => {
    waiting.push(resolve);
  });
}

onSecondFactorDemanded(meet);
watch(session, (now) => {
  if (now !== null) return;
  isOpened.value = false;
  settle(false);
});
