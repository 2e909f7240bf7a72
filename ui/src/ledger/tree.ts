/** The tree's hashes and proofs: RFC 9162 §2.1, computed here. */
import { type Bytes, isSame, sha256 } from "./bytes";

const LEAF = Uint8Array.of(0);
const NODE = Uint8Array.of(1);

export function hashLeaf(entry: Bytes): Promise<Bytes> {
  return sha256(LEAF, entry);
}

export function hashNode(left: Bytes, right: Bytes): Promise<Bytes> {
  return sha256(NODE, left, right);
}

/** The root that an audit path leads to (§2.1.3.2); undefined where it is none of that place. */
export async function followPath(
  index: number,
  size: number,
  leaf: Bytes,
  path: readonly Bytes[],
): Promise<Bytes | undefined> {
  if (!isPlace(index) || !isPlace(size) || index >= size || !areHashes([leaf, ...path])) {
    return undefined;
  }
  let node = BigInt(index);
  let last = BigInt(size) - 1n;
  let root = leaf;
  for (const sibling of path) {
    if (last === 0n) return undefined;
    if (isOdd(node) || node === last) {
      root = await hashNode(sibling, root);
      while (!isOdd(node) && node !== 0n) {
        node >>= 1n;
        last >>= 1n;
      }
    } else {
      root = await hashNode(root, sibling);
    }
    node >>= 1n;
    last >>= 1n;
  }
  return last === 0n ? root : undefined;
}

/** Whether a proof shows that the tree of `first` leaves begins that of `second` (§2.1.4.2). */
export async function isPrefix(
  first: number,
  second: number,
  old: Bytes,
  now: Bytes,
  proof: readonly Bytes[],
): Promise<boolean> {
  if (!isPlace(first) || !isPlace(second) || first < 1 || first > second) return false;
  if (!areHashes([old, now, ...proof])) return false;
  if (first === second) return proof.length === 0 && isSame(old, now);
  const path = isPowerOfTwo(BigInt(first)) ? [old, ...proof] : [...proof];
  const begin = path.shift();
  if (begin === undefined) return false;
  let node = BigInt(first) - 1n;
  let last = BigInt(second) - 1n;
  while (isOdd(node)) {
    node >>= 1n;
    last >>= 1n;
  }
  let oldRoot = begin;
  let newRoot = begin;
  for (const sibling of path) {
    if (last === 0n) return false;
    if (isOdd(node) || node === last) {
      oldRoot = await hashNode(sibling, oldRoot);
      newRoot = await hashNode(sibling, newRoot);
      while (!isOdd(node) && node !== 0n) {
        node >>= 1n;
        last >>= 1n;
      }
    } else {
      newRoot = await hashNode(newRoot, sibling);
    }
    node >>= 1n;
    last >>= 1n;
  }
  return last === 0n && isSame(oldRoot, old) && isSame(newRoot, now);
}

function isPlace(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function isOdd(value: bigint): boolean {
  return (value & 1n) === 1n;
}

function isPowerOfTwo(value: bigint): boolean {
  return (value & (value - 1n)) === 0n;
}

function areHashes(values: readonly Bytes[]): boolean {
  return values.every((value) => value.length === 32);
}
