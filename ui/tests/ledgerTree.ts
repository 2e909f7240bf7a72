/** A ledger in memory, signed by a key of its own: what a platform would answer. */
import { type Bytes, joined, ofText, sha256, toBase64, toHex } from "@/ledger/bytes";
import { writeVerifierKey } from "@/ledger/note";
import { hashLeaf, hashNode } from "@/ledger/tree";
import { NoProof, type Source } from "@/ledger/verification";

const EMPTY = ofText("");

/** The largest power of two below `count`. */
function splitOf(count: number): number {
  let power = 1;
  while (power * 2 < count) power *= 2;
  return power;
}

/** RFC 9162 §2.1.1. */
export async function rootOf(leaves: readonly Bytes[]): Promise<Bytes> {
  if (leaves.length === 0) return sha256(EMPTY);
  if (leaves.length === 1) return leaves[0] ?? EMPTY;
  const at = splitOf(leaves.length);
  return hashNode(await rootOf(leaves.slice(0, at)), await rootOf(leaves.slice(at)));
}

/** RFC 9162 §2.1.3.1. */
export async function pathOf(index: number, leaves: readonly Bytes[]): Promise<Bytes[]> {
  if (leaves.length === 1) return [];
  const at = splitOf(leaves.length);
  const [left, right] = [leaves.slice(0, at), leaves.slice(at)];
  if (index < at) return [...(await pathOf(index, left)), await rootOf(right)];
  return [...(await pathOf(index - at, right)), await rootOf(left)];
}

/** RFC 9162 §2.1.4.1. */
export async function consistencyOf(
  first: number,
  leaves: readonly Bytes[],
  isWhole = true,
): Promise<Bytes[]> {
  if (first === leaves.length) return isWhole ? [] : [await rootOf(leaves)];
  const at = splitOf(leaves.length);
  const [left, right] = [leaves.slice(0, at), leaves.slice(at)];
  if (first <= at) return [...(await consistencyOf(first, left, isWhole)), await rootOf(right)];
  return [...(await consistencyOf(first - at, right, false)), await rootOf(left)];
}

export interface Signer {
  private: CryptoKey;
  public: Bytes;
}

export async function makeSigner(): Promise<Signer> {
  const pair = (await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"])) as CryptoKeyPair;
  const raw = await crypto.subtle.exportKey("raw", pair.publicKey);
  return { private: pair.privateKey, public: new Uint8Array(raw) };
}

export async function signNote(text: string, name: string, signers: readonly Signer[]): Promise<string> {
  const lines = await Promise.all(
    signers.map(async (signer) => {
      const key = await writeVerifierKey({ name, public: signer.public });
      const hash = Uint8Array.from(key.split("+")[1]?.match(/../g) ?? [], (pair) =>
        Number.parseInt(pair, 16),
      );
      const made = await crypto.subtle.sign("Ed25519", signer.private, ofText(text));
      return `— ${name} ${toBase64(joined([hash, new Uint8Array(made)]))}\n`;
    }),
  );
  return `${text}\n${lines.join("")}`;
}

export class FakeLedger {
  entries: Bytes[] = [];
  signers: Signer[] = [];
  named: Signer[] | undefined;
  epoch = 1;
  trustDomain = "example.org";

  get origin(): string {
    return `${this.trustDomain}/ledger/${this.epoch}`;
  }

  grow(count: number, word = "entry"): this {
    const from = this.entries.length;
    for (let n = from; n < from + count; n += 1) this.entries.push(ofText(`{"${word}":${n}}`));
    return this;
  }

  leaves(size = this.entries.length): Promise<Bytes[]> {
    return Promise.all(this.entries.slice(0, size).map(hashLeaf));
  }

  async claim(leafIndex: number) {
    const bytes = this.entries[leafIndex] ?? EMPTY;
    return { leafIndex, bytes, leafHash: toHex(await hashLeaf(bytes)) };
  }

  async note(): Promise<string> {
    const root = await rootOf(await this.leaves());
    const text = `${this.origin}\n${this.entries.length}\n${toBase64(root)}\n`;
    return signNote(text, this.origin, this.signers);
  }

  source(changes: Partial<Source> = {}): Source {
    return {
      epoch: undefined,
      note: () => this.note(),
      keys: async () => {
        const keys = (this.named ?? this.signers).map((one) =>
          writeVerifierKey({ name: this.origin, public: one.public }),
        );
        return `${(await Promise.all(keys)).join("\n")}\n`;
      },
      inclusion: async (index, size) =>
        (await pathOf(index, await this.leaves(size))).map(toHex),
      consistency: async (first, second) => {
        if (second > this.entries.length) throw new NoProof("there is no such size");
        return (await consistencyOf(first, await this.leaves(second))).map(toHex);
      },
      ...changes,
    };
  }
}
