/** What this browser remembers of the ledger: whose signature it believes, and what it saw last.
 * A platform that has changed its past, or its key, then contradicts something that it cannot reach. */
import { type Bytes, fromBase64, fromHex, toBase64, toHex } from "./bytes";
import type { Checkpoint } from "./note";

const PLACE = "tg-ledger-memory/1";
const MOST_KEYS = 16;
const MOST_EPOCHS = 100;

/** A key that this browser's user believes. */
export interface Pin {
  public: Bytes;
  /** When, in milliseconds. */
  at: number;
}

/** A checkpoint that this browser has verified. */
export interface Sight {
  size: number;
  root: Bytes;
  at: number;
}

interface Stored {
  trustDomain: string;
  keys: { public: string; at: number }[];
  seen: Record<string, { size: number; root: string; at: number }>;
}

/** Where it is kept: localStorage, or anything like it. */
export type Shelf = Pick<Storage, "getItem" | "setItem" | "removeItem">;

export class Memory {
  private stored: Stored = empty();

  private constructor(
    private readonly shelf: Shelf | undefined,
    /** Whether it outlives this page. */
    public isKept: boolean,
    /** Whether something stood there that was not written by this: it is not overwritten then. */
    public isDamaged: boolean,
  ) {}

  static read(shelf: Shelf | undefined = findShelf()): Memory {
    const text = shelf?.getItem(PLACE) ?? null;
    const found = text === null ? empty() : parse(text);
    const memory = new Memory(shelf, shelf !== undefined, found === undefined);
    memory.stored = found ?? empty();
    return memory;
  }

  /** The name that the believed keys sign for; empty before the first. */
  get trustDomain(): string {
    return this.stored.trustDomain;
  }

  get pins(): Pin[] {
    return this.stored.keys.flatMap(({ public: text, at }) => {
      const key = fromBase64(text);
      return key?.length === 32 ? [{ public: key, at }] : [];
    });
  }

  /** Believe a key from now on, beside those that are believed already. */
  pin(trustDomain: string, key: Bytes, at: number): void {
    const text = toBase64(key);
    if (this.isDamaged) this.forget();
    if (this.stored.trustDomain !== trustDomain) this.stored = { ...empty(), trustDomain };
    const others = this.stored.keys.filter((one) => one.public !== text);
    this.stored.keys = [...others, { public: text, at }].slice(-MOST_KEYS);
    this.write();
  }

  /** Believe a key no more; what it has signed stays remembered. */
  unpin(key: Bytes): void {
    this.stored.keys = this.stored.keys.filter((one) => one.public !== toBase64(key));
    this.write();
  }

  /** Begin as if this browser had never seen the ledger. */
  forget(): void {
    this.stored = empty();
    this.isDamaged = false;
    this.shelf?.removeItem(PLACE);
  }

  /** The largest checkpoint of a ledger that this browser has verified. */
  seen(origin: string): Sight | undefined {
    const found = Object.hasOwn(this.stored.seen, origin) ? this.stored.seen[origin] : undefined;
    const root = fromHex(found?.root ?? "");
    return found === undefined || root?.length !== 32 ? undefined : { ...found, root };
  }

  /** The latest epoch of which this browser has seen a checkpoint; 0 before the first. */
  get latestEpoch(): number {
    const epochs = Object.keys(this.stored.seen).map((origin) => Number(origin.split("/").at(-1)));
    return Math.max(0, ...epochs.filter(Number.isSafeInteger));
  }

  /** Remember a verified checkpoint, if it is larger than what is remembered. */
  remember(checkpoint: Checkpoint, at: number): void {
    const before = this.seen(checkpoint.origin);
    if (before !== undefined && before.size >= checkpoint.size) return;
    const seen = { size: checkpoint.size, root: toHex(checkpoint.root), at };
    const all = Object.entries({ ...this.stored.seen, [checkpoint.origin]: seen });
    this.stored.seen = Object.fromEntries(all.slice(-MOST_EPOCHS));
    this.write();
  }

  private write(): void {
    if (this.shelf === undefined || this.isDamaged) return;
    try {
      this.shelf.setItem(PLACE, JSON.stringify(this.stored));
    } catch {
      this.isKept = false; // full, or forbidden: who shows this says so
    }
  }
}

function empty(): Stored {
  return { trustDomain: "", keys: [], seen: {} };
}

function findShelf(): Shelf | undefined {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined; // this browser keeps nothing for pages
  }
}

function parse(text: string): Stored | undefined {
  try {
    const value = JSON.parse(text) as Partial<Stored> | null;
    const isOurs =
      typeof value?.trustDomain === "string" &&
      Array.isArray(value.keys) &&
      typeof value.seen === "object" &&
      value.seen !== null;
    return isOurs ? (value as Stored) : undefined;
  } catch {
    return undefined;
  }
}
