import type { QueryClient } from "@tanstack/vue-query";
import { computed, readonly, ref } from "vue";

import type { Hint } from "./hint";
import { countHeartbeats } from "./heartbeats";
import { Refresher } from "./refresher";
import { followStream, type StreamState } from "./stream";

const CHANNEL = "tg-live";

type Message =
  | { is: "state"; state: StreamState }
  | { is: "hints"; hints: Hint[]; lastEventId: string }
  | { is: "gap" }
  | { is: "asks" };

const state = ref<StreamState>("connecting");
const since = ref(Date.now());

export const liveState = readonly(state);
/** Since when it has been so, by this machine's clock. */
export const liveStateSince = readonly(since);
export const isFollowing = computed(() => state.value === "live" || state.value === "polling");

/** One stream a browser: the tab that holds the lock reads it, and tells the others. */
export class Live {
  readonly #refresher: Refresher;
  readonly #renew: () => Promise<boolean>;
  #stop: AbortController | undefined;
  #channel: BroadcastChannel | undefined;
  #leads = false;
  #lastEventId = "";

  constructor(client: QueryClient, renew: () => Promise<boolean>) {
    this.#refresher = new Refresher(client);
    this.#renew = renew;
  }

  start(): void {
    if (this.#stop !== undefined) return;
    const stop = new AbortController();
    this.#stop = stop;
    this.#setState("connecting");
    if (!("locks" in navigator) || !("BroadcastChannel" in globalThis)) {
      void this.#lead(stop.signal);
      return;
    }
    this.#channel = new BroadcastChannel(CHANNEL);
    this.#channel.addEventListener("message", (event: MessageEvent<Message>) => {
      this.#hear(event.data);
    });
    this.#tell({ is: "asks" });
    navigator.locks
      .request(CHANNEL, { signal: stop.signal }, () => this.#lead(stop.signal))
      .catch(() => undefined); // stopped while it waited for its turn
  }

  stop(): void {
    this.#stop?.abort();
    this.#stop = undefined;
    this.#channel?.close();
    this.#channel = undefined;
    this.#leads = false;
    this.#lastEventId = "";
    this.#refresher.stop();
  }

  async #lead(stop: AbortSignal): Promise<void> {
    this.#leads = true;
    await followStream(
      {
        onState: (next) => {
          this.#setState(next);
          this.#tell({ is: "state", state: next });
        },
        onHints: (hints, lastEventId) => {
          this.#takeHints(hints, lastEventId);
          this.#tell({ is: "hints", hints, lastEventId });
        },
        onGap: () => {
          this.#refresher.refreshAll();
          this.#tell({ is: "gap" });
        },
        onUnauthenticated: this.#renew,
      },
      this.#lastEventId,
      stop,
    );
    this.#leads = false;
  }

  #hear(message: Message): void {
    if (message.is === "asks") {
      if (this.#leads) this.#tell({ is: "state", state: state.value });
    } else if (message.is === "state") {
      this.#setState(message.state);
    } else if (message.is === "hints") {
      this.#takeHints(message.hints, message.lastEventId);
    } else {
      this.#refresher.refreshAll();
    }
  }

  #takeHints(hints: Hint[], lastEventId: string): void {
    this.#lastEventId = lastEventId;
    for (const { kind, count } of hints) {
      if (kind === "heartbeats" && count !== undefined) countHeartbeats(count);
    }
    this.#refresher.take(hints);
  }

  #tell(message: Message): void {
    this.#channel?.postMessage(message);
  }

  #setState(next: StreamState): void {
    if (state.value === next) return;
    // What could not be read meanwhile: no hint will tell of it.
    if (next === "live") this.#refresher.refreshFailed();
    state.value = next;
    since.value = Date.now();
  }
}
