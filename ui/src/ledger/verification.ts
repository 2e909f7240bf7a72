/** The verification of an entry, or of a checkpoint alone, by this browser: what it asks the
 * platform for, it checks; what it cannot check, it does not claim. */
import { type Bytes, fromHex, isSame, sha256, toHex, Unsupported } from "./bytes";
import type { Memory } from "./memory";
import {
  type Checkpoint,
  checkSignatures,
  type Note,
  readNote,
  readVerifierKey,
  type SignatureState,
  type VerifierKey,
} from "./note";
import { followPath, hashLeaf, isPrefix } from "./tree";
import { formatNumber } from "@/text/format";

/** passed: it holds. first: it holds, as far as a first look can tell. failed: it does not hold.
 * untold: it could not be checked. skipped: an earlier step leaves nothing to check. */
export type Outcome = "passed" | "first" | "failed" | "untold" | "skipped";
export type StepName = "leaf" | "path" | "signature" | "key" | "consistency";

export interface Step {
  name: StepName;
  outcome: Outcome;
  text: string;
}

export interface Signed {
  name: string;
  state: SignatureState;
}

/** What was found. `outcome` is that of the worst step. */
export interface Verdict {
  outcome: "passed" | "first" | "failed" | "untold";
  steps: Step[];
  checkpoint: Checkpoint | undefined;
  signatures: Signed[];
  /** Keys that the platform names and that this browser does not believe. */
  strangers: VerifierKey[];
}

/** An answer that says that there is no such proof, which a ledger that was not cut always has. */
export class NoProof extends Error {}

/** What is asked of the platform. */
export interface Source {
  /** Of which all of it is to be; undefined: the one that the ledger is in. */
  epoch: number | undefined;
  note: () => Promise<string>;
  keys: () => Promise<string>;
  /** The hashes of an audit path in hex, the leaf's sibling first. Throws NoProof. */
  inclusion: (index: number, size: number) => Promise<string[]>;
  /** Throws NoProof. */
  consistency: (first: number, second: number) => Promise<string[]>;
}

/** An entry as the platform gave it. */
export interface Claim {
  leafIndex: number;
  leafHash: string;
  bytes: Bytes;
}

/** Verify a checkpoint: who signed it, and that it extends what this browser has seen before. */
export async function verifyCheckpoint(
  source: Source,
  memory: Memory,
  now: () => number,
): Promise<Verdict> {
  const found = await examine(source, memory, now);
  if (found.verdict.outcome !== "failed") await settle(found, memory, now);
  return found.verdict;
}

/** Verify an entry: its hash, its place in the tree, and the checkpoint of that tree. */
export async function verifyEntry(
  claim: Claim,
  source: Source,
  memory: Memory,
  now: () => number,
): Promise<Verdict> {
  const leaf = await stepOf("leaf", () => checkLeaf(claim));
  const found = await examine(source, memory, now);
  const { checkpoint } = found.verdict;
  const path = await stepOf("path", () => checkPath(claim, checkpoint, source));
  found.verdict = judge([leaf, path, ...found.verdict.steps], found.verdict);
  // Neither a key nor a checkpoint is learned from an answer of which a part was wrong.
  if (found.verdict.outcome !== "failed") await settle(found, memory, now);
  return found.verdict;
}

async function checkLeaf(claim: Claim): Promise<Omit<Step, "name">> {
  const hash = toHex(await hashLeaf(claim.bytes));
  if (hash === claim.leafHash) {
    return passed("SHA-256 over 0x00 and the exact bytes is the leaf's hash.");
  }
  return failed(`The bytes hash to ${hash}, and the platform says ${claim.leafHash}.`);
}

async function checkPath(
  claim: Claim,
  checkpoint: Checkpoint | undefined,
  source: Source,
): Promise<Omit<Step, "name">> {
  if (checkpoint === undefined) return skipped("Without a checkpoint there is no root to reach.");
  const { leafIndex } = claim;
  if (leafIndex >= checkpoint.size) {
    return untold(
      `The checkpoint covers ${formatNumber(checkpoint.size)} entries, and this one is newer: the next will cover it.`,
    );
  }
  const path = readHashes(await source.inclusion(leafIndex, checkpoint.size));
  if (path === undefined) return failed("The audit path is no list of hashes.");
  // From the bytes themselves, whatever hash the platform gave with them.
  const root = await followPath(leafIndex, checkpoint.size, await hashLeaf(claim.bytes), path);
  if (root === undefined) {
    return failed(`The audit path is none of place ${leafIndex} of ${checkpoint.size}.`);
  }
  if (!isSame(root, checkpoint.root)) {
    return failed(
      `From these bytes the audit path leads to ${toHex(root)}, and not to the checkpoint's root ${toHex(checkpoint.root)}.`,
    );
  }
  return passed(
    `${path.length} hashes lead from place ${formatNumber(leafIndex)} to the root of the checkpoint of ${formatNumber(checkpoint.size)} entries.`,
  );
}

interface Examined {
  verdict: Verdict;
  /** What is to be learned, once everything else has held. */
  learn: Bytes[];
}

async function examine(source: Source, memory: Memory, now: () => number): Promise<Examined> {
  const nothing: Examined = { verdict: judge([], undefined), learn: [] };
  let note: Note | undefined;
  let keys: VerifierKey[] | undefined;
  try {
    [note, keys] = await Promise.all([source.note().then(readNote), readKeys(source)]);
  } catch (error) {
    nothing.verdict = judge([{ name: "signature", ...untoldOf(error) }], undefined);
    return nothing;
  }
  if (note === undefined || keys === undefined) {
    const what = note === undefined ? "checkpoint is no signed note" : "answer is no verifier key";
    const step: Step = { name: "signature", ...failed(`The platform's ${what}.`) };
    nothing.verdict = judge([step], undefined);
    return nothing;
  }
  const { checkpoint } = note;
  const pins = memory.pins;
  const isFirst = pins.length === 0;
  // A key's line names the present epoch; the same key has signed for those before.
  const ofThis = ({ public: key }: { public: Bytes }) => ({ name: checkpoint.origin, public: key });
  const pinned = pins.map(ofThis);
  const strangers = keys.filter((key) => !pins.some((pin) => isSame(pin.public, key.public)));
  let states: SignatureState[] = [];
  const signature = await stepOf("signature", async () => {
    states = await checkSignatures(note, isFirst ? keys.map(ofThis) : pinned);
    return sayOfSignatures(states, checkpoint);
  });
  const key: Step = {
    name: "key",
    ...sayOfKeys({ memory, pinned, strangers, states, checkpoint, isFirst, told: signature.outcome }),
  };
  const consistency = await stepOf("consistency", () =>
    checkConsistency(checkpoint, source, memory, signature.outcome, now),
  );
  const signatures = note.signatures.map((one, at) => ({
    name: one.name,
    state: states[at] ?? "unknown",
  }));
  const known: Verdict = {
    outcome: "untold",
    steps: [],
    checkpoint,
    signatures,
    strangers: isFirst && !memory.isDamaged ? [] : strangers,
  };
  const verdict = judge([signature, key, consistency], known);
  const learn = isFirst && signature.outcome === "passed" ? keys.map((one) => one.public) : [];
  return { verdict, learn };
}

async function readKeys(source: Source): Promise<VerifierKey[] | undefined> {
  const lines = (await source.keys()).split("\n").filter((line) => line !== "");
  const keys = await Promise.all(lines.map(readVerifierKey));
  return keys.length > 0 && keys.every((key) => key !== undefined) ? keys : undefined;
}

function sayOfSignatures(states: SignatureState[], checkpoint: Checkpoint): Omit<Step, "name"> {
  const good = states.filter((state) => state === "verified").length;
  if (states.includes("wrong")) {
    return failed("An Ed25519 signature of the checkpoint is wrong: it was not made over this text.");
  }
  if (good === 0) return failed("No key that this browser believes has signed the checkpoint.");
  const others = states.length - good;
  return passed(
    `${good === 1 ? "An Ed25519 signature" : `${good} Ed25519 signatures`} of ${checkpoint.origin} over ${formatNumber(checkpoint.size)} entries and their root.` +
      (others > 0 ? ` ${others} more by keys that this browser does not believe.` : ""),
  );
}

interface OfKeys {
  memory: Memory;
  pinned: VerifierKey[];
  strangers: VerifierKey[];
  states: SignatureState[];
  checkpoint: Checkpoint;
  isFirst: boolean;
  told: Outcome;
}

function sayOfKeys(of: OfKeys): Omit<Step, "name"> {
  const { memory, checkpoint } = of;
  if (memory.isDamaged) {
    return untold("What this browser remembered of the ledger's key is damaged: pin the key again.");
  }
  if (of.told === "untold") return skipped("No signature could be checked with it.");
  if (of.isFirst) {
    if (of.told !== "passed") return skipped("No key was pinned, since none has signed this.");
    return {
      outcome: "first",
      text: "This browser sees the key for the first time and remembers it. Compare its fingerprint with one that came to you another way.",
    };
  }
  if (memory.trustDomain !== checkpoint.trustDomain) {
    return failed(
      `This browser remembers a ledger of ${memory.trustDomain}, and this one calls itself ${checkpoint.trustDomain}.`,
    );
  }
  if (!of.states.includes("verified") && of.strangers.length > 0) {
    return failed(
      "THE KEY HAS CHANGED: what signs now is not the key that this browser remembers. Unless your platform's operator has told you of a rotation, somebody else signs.",
    );
  }
  if (of.strangers.length > 0) {
    return passed(
      "The remembered key signs. Beside it a key signs that this browser does not know yet: a rotation is under way, or somebody pretends one.",
    );
  }
  const since = Math.min(...memory.pins.map((pin) => pin.at));
  return passed(
    `The platform names the key that this browser remembers since ${toMinute(since)}, and no other.`,
  );
}

async function checkConsistency(
  checkpoint: Checkpoint,
  source: Source,
  memory: Memory,
  told: Outcome,
  now: () => number,
): Promise<Omit<Step, "name">> {
  if (told !== "passed") return skipped("An unsigned checkpoint is compared with nothing.");
  if (checkpoint.epoch !== (source.epoch ?? checkpoint.epoch)) {
    return failed(`Epoch ${source.epoch} was asked for, and this is of epoch ${checkpoint.epoch}.`);
  }
  const { latestEpoch } = memory;
  if (source.epoch === undefined && latestEpoch > checkpoint.epoch) {
    return failed(
      `THE LEDGER WENT BACK to epoch ${checkpoint.epoch}: this browser has seen epoch ${latestEpoch}.`,
    );
  }
  const seen = memory.seen(checkpoint.origin);
  if (seen === undefined) return sayOfFirst(checkpoint, latestEpoch);
  // Another tab may have seen a newer one meanwhile.
  const [old, young] = checkpoint.size < seen.size ? [checkpoint, seen] : [seen, checkpoint];
  const proof =
    old.size === young.size ? [] : readHashes(await source.consistency(old.size, young.size));
  const isSound =
    proof !== undefined && (await isPrefix(old.size, young.size, old.root, young.root, proof));
  const age = toMinute(Math.min(seen.at, now()));
  if (!isSound) {
    return failed(
      `THE LEDGER'S PAST HAS CHANGED: this checkpoint does not continue the one of ${formatNumber(seen.size)} entries that this browser verified on ${age}.`,
    );
  }
  return passed(
    old.size === young.size
      ? `It is the checkpoint of ${formatNumber(seen.size)} entries that this browser has verified before.`
      : `It is proven to agree with the checkpoint of ${formatNumber(seen.size)} entries that this browser verified on ${age}: nothing before it was changed.`,
  );
}

function sayOfFirst(checkpoint: Checkpoint, latestEpoch: number): Omit<Step, "name"> {
  if (latestEpoch > checkpoint.epoch) {
    return passed("This browser has seen nothing of this earlier epoch that it could contradict.");
  }
  const text =
    latestEpoch === 0
      ? "This is the first checkpoint that this browser sees: from now on every other has to agree with it."
      : `The ledger has begun epoch ${checkpoint.epoch}; this browser remembers epoch ${latestEpoch}. The first entry of the new one says why.`;
  return { outcome: "first", text };
}

/** Learn what has held: the key at a first look, and the checkpoint. */
async function settle(found: Examined, memory: Memory, now: () => number): Promise<void> {
  const { checkpoint, steps } = found.verdict;
  const isSigned = steps.some((step) => step.name === "signature" && step.outcome === "passed");
  const isConsistent = steps.some(
    (step) => step.name === "consistency" && (step.outcome === "passed" || step.outcome === "first"),
  );
  if (checkpoint === undefined || !isSigned || !isConsistent || memory.isDamaged) return;
  for (const key of found.learn) memory.pin(checkpoint.trustDomain, key, now());
  memory.remember(checkpoint, now());
}

function toMinute(at: number): string {
  return `${new Date(at).toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

function judge(steps: Step[], known: Verdict | undefined): Verdict {
  const worst = (["failed", "untold", "skipped", "first"] as const).find((outcome) =>
    steps.some((step) => step.outcome === outcome),
  );
  return {
    outcome: worst === "skipped" ? "untold" : (worst ?? (steps.length === 0 ? "untold" : "passed")),
    steps,
    checkpoint: known?.checkpoint,
    signatures: known?.signatures ?? [],
    strangers: known?.strangers ?? [],
  };
}

async function stepOf(name: StepName, check: () => Promise<Omit<Step, "name">>): Promise<Step> {
  try {
    return { name, ...(await check()) };
  } catch (error) {
    if (error instanceof NoProof) {
      return { name, ...failed(`The platform cannot prove it: ${error.message}`) };
    }
    return { name, ...untoldOf(error) };
  }
}

function readHashes(values: readonly string[]): Bytes[] | undefined {
  const hashes = values.map(fromHex);
  return hashes.every((hash) => hash?.length === 32) ? (hashes as Bytes[]) : undefined;
}

function untoldOf(error: unknown): Omit<Step, "name"> {
  const what = error instanceof Error ? error.message : String(error);
  if (error instanceof Unsupported) {
    return untold(`${what} Verify an export with verify.py instead.`);
  }
  return untold(`It could not be checked: ${what}`);
}

const passed = (text: string): Omit<Step, "name"> => ({ outcome: "passed", text });
const failed = (text: string): Omit<Step, "name"> => ({ outcome: "failed", text });
const untold = (text: string): Omit<Step, "name"> => ({ outcome: "untold", text });
const skipped = (text: string): Omit<Step, "name"> => ({ outcome: "skipped", text });

/** The key as people compare it: SHA-256 of the public key, in groups. */
export async function fingerprintOf(key: Bytes): Promise<string> {
  return toHex(await sha256(key)).replaceAll(/.{8}(?=.)/g, "$& ");
}
