import type { Query, QueryClient } from "@tanstack/vue-query";

import { type Hint, type Liveness, relevanceOf } from "./hint";

const TICK_MS = 500;
const LATER_MS = 5000;
/** A query that takes long is asked for less often: at most a third of the time. */
const REST_FACTOR = 2;

interface Due {
  at: number;
  started?: number;
}

/** Reads again what hints are about: each query at most twice a second, never two at once. */
export class Refresher {
  readonly #client: QueryClient;
  readonly #now: () => number;
  readonly #due = new Map<string, Due>();
  readonly #rest = new Map<string, number>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(client: QueryClient, now: () => number = () => performance.now()) {
    this.#client = client;
    this.#now = now;
  }

  /** Take hints in; cheap, however many there are. */
  take(hints: readonly Hint[]): void {
    for (const query of this.#active()) {
      const liveness = query.meta?.live as Liveness;
      let soonest: "now" | "later" | undefined;
      for (const hint of hints) {
        const relevance = relevanceOf(liveness, hint, query.state.data);
        if (relevance === "never") continue;
        soonest = relevance;
        if (relevance === "now") break;
      }
      if (soonest !== undefined) this.#plan(query, soonest === "now" ? 0 : LATER_MS);
    }
  }

  /** Read everything live again, as after a gap in the stream. */
  refreshAll(): void {
    for (const query of this.#active()) this.#plan(query, 0);
  }

  /** Read again whatever could not be read the last time. */
  refreshFailed(): void {
    for (const query of this.#active()) {
      if (query.state.status === "error") this.#plan(query, 0);
    }
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#due.clear();
    this.#rest.clear();
  }

  #active(): Query[] {
    return this.#client
      .getQueryCache()
      .findAll({ type: "active" })
      .filter((query) => query.meta?.live !== undefined);
  }

  #plan(query: Query, delayMs: number): void {
    const at = Math.max(this.#now() + delayMs, this.#rest.get(query.queryHash) ?? 0);
    const known = this.#due.get(query.queryHash);
    if (known === undefined || at < known.at) this.#due.set(query.queryHash, { at });
    this.#timer ??= setTimeout(() => this.#tick(), 0);
  }

  #tick(): void {
    this.#timer = undefined;
    const now = this.#now();
    for (const [hash, due] of this.#due) {
      const query = this.#client.getQueryCache().get(hash);
      if (query === undefined || !query.isActive()) {
        this.#due.delete(hash);
        this.#rest.delete(hash);
      } else if (due.at <= now && query.state.fetchStatus === "idle") {
        this.#due.delete(hash);
        this.#rest.set(hash, now + TICK_MS);
        void this.#refetch(query, now);
      }
    }
    if (this.#due.size > 0) this.#timer = setTimeout(() => this.#tick(), TICK_MS / 5);
  }

  async #refetch(query: Query, started: number): Promise<void> {
    // An error is the query's own state: its page shows it.
    await this.#client
      .refetchQueries({ queryKey: query.queryKey, exact: true }, { cancelRefetch: false })
      .catch(() => undefined);
    const took = this.#now() - started;
    this.#rest.set(query.queryHash, this.#now() + Math.max(TICK_MS - took, took * REST_FACTOR));
  }
}
