import { computed, ref, shallowRef } from "vue";

import { api, onSessionEnded, type Schemas, unwrap } from "@/api/client";
import { isProblem } from "@/api/problem";

export type Session = Schemas["SessionView"];
export type Permission = Session["permissions"][number];
export type Role = Session["role"];

const current = shallowRef<Session | null>(null);
const renewing = ref(false);
let waiting: ((renewed: boolean) => void)[] = [];
const others = "BroadcastChannel" in globalThis ? new BroadcastChannel("tg-session") : undefined;

export const session = computed(() => current.value);
/** Whether the session has ended under a page: a dialog asks for the password over it. */
export const hasExpired = computed(() => renewing.value);

export function may(permission: Permission): boolean {
  return current.value?.permissions.includes(permission) ?? false;
}

/** Find out who is signed in; null if nobody is. Throws ApiProblem if that cannot be told. */
export async function loadSession(): Promise<Session | null> {
  try {
    current.value = await unwrap(api.GET("/api/v1/session"));
  } catch (error) {
    if (!isProblem(error) || error.status !== 401) throw error;
    current.value = null;
  }
  return current.value;
}

/** Sign in. Throws ApiProblem. */
export async function signIn(email: string, password: string): Promise<Session> {
  const opened = await unwrap(api.POST("/api/v1/session", { body: { email, password } }));
  current.value = opened;
  others?.postMessage("signed-in");
  settle(true);
  return opened;
}

/** Sign out, here and in this browser's other tabs. */
export async function signOut(): Promise<void> {
  try {
    await unwrap(api.DELETE("/api/v1/session"));
  } catch (error) {
    // A session that has ended already is what was asked for.
    if (!isProblem(error) || error.status !== 401) throw error;
  }
  others?.postMessage("signed-out");
  leave();
}

let onLeft: () => void = () => undefined;

/** Say what happens when nobody is signed in any more. */
export function onSignedOut(handler: () => void): void {
  onLeft = handler;
}

/** Give up waiting for a password: the page is left. */
export function leave(): void {
  current.value = null;
  settle(false);
  onLeft();
}

function settle(renewed: boolean): void {
  renewing.value = false;
  const all = waiting;
  waiting = [];
  for (const resolve of all) resolve(renewed);
}

/** Ask for the password over the page, once for all requests that wait for it. */
export function renewSession(): Promise<boolean> {
  if (current.value === null) return Promise.resolve(false);
  renewing.value = true;
  return new Promise((resolve) => {
    waiting.push(resolve);
  });
}

onSessionEnded(renewSession);

others?.addEventListener("message", (event: MessageEvent<string>) => {
  if (event.data === "signed-out" && current.value !== null) leave();
  // Whoever signed in elsewhere is who is signed in here: the cookie is the same.
  if (event.data === "signed-in" && renewing.value) {
    void loadSession().then((found) => {
      if (found !== null) settle(true);
    });
  }
});
