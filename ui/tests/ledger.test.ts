import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

import { beforeEach, describe, expect, it } from "vitest";

import { FakeLedger, makeSigner, pathOf, rootOf, type Signer } from "./ledgerTree";
import { type Bytes, fromBase64, ofText, toHex, Unsupported } from "@/ledger/bytes";
import { Memory, type Shelf } from "@/ledger/memory";
import { checkSignatures, readNote, readVerifierKey, writeVerifierKey } from "@/ledger/note";
import { followPath, hashLeaf, isPrefix } from "@/ledger/tree";
import { type StepName, type Verdict, verifyCheckpoint, verifyEntry } from "@/ledger/verification";

const VECTORS = resolve(import.meta.dirname, "../../tests/contract/vectors/rfc6962");
const NOW = Date.parse("2026-05-01T12:00:00Z");
const now = () => NOW;

function shelf(): Shelf & { items: Map<string, string> } {
  const items = new Map<string, string>();
  return {
    items,
    getItem: (name) => items.get(name) ?? null,
    setItem: (name, value) => void items.set(name, value),
    removeItem: (name) => void items.delete(name),
  };
}

function vectors(kind: string): { name: string; vector: Record<string, unknown> }[] {
  const files = readdirSync(join(VECTORS, kind), { recursive: true, encoding: "utf8" });
  return files
    .filter((name) => name.endsWith(".json"))
    .map((name) => ({
      name,
      vector: JSON.parse(readFileSync(join(VECTORS, kind, name), "utf8")) as Record<string, unknown>,
    }));
}

/** A hash of a vector; those that are meant to be broken may be no base64 either. */
function hash(value: unknown): Bytes {
  return fromBase64((value as string | null) ?? "") ?? ofText("");
}

function hashes(values: unknown): Bytes[] {
  return ((values as string[] | null) ?? []).map(hash);
}

function outcomes(verdict: Verdict): Partial<Record<StepName, string>> {
  return Object.fromEntries(verdict.steps.map((step) => [step.name, step.outcome]));
}

function textOf(verdict: Verdict, name: StepName): string {
  return verdict.steps.find((step) => step.name === name)?.text ?? "";
}

describe("the official vectors of RFC 6962", () => {
  it("are all there", () => {
    expect(vectors("inclusion").length + vectors("consistency").length).toBe(106);
  });

  it.each(vectors("inclusion"))("inclusion: $name", async ({ vector }) => {
    const found = await followPath(
      vector.leafIdx as number,
      vector.treeSize as number,
      hash(vector.leafHash),
      hashes(vector.proof),
    );
    const isRight = found !== undefined && toHex(found) === toHex(hash(vector.root));
    expect(isRight).toBe(!vector.wantErr);
  });

  it.each(vectors("consistency"))("consistency $name", async ({ vector }) => {
    const found = await isPrefix(
      vector.size1 as number,
      vector.size2 as number,
      hash(vector.root1),
      hash(vector.root2),
      hashes(vector.proof),
    );
    expect(found).toBe(!vector.wantErr);
  });
});

describe("signed notes", () => {
  // The example in the documentation of golang.org/x/mod/sumdb/note (BSD-3-Clause).
  const KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
  const SIGNATURE =
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
  const TEXT =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";

  it("of another program are verified, and not once a letter is another", async () => {
    const key = (await readVerifierKey(KEY)) ?? { name: "", public: ofText("") };
    expect(await writeVerifierKey(key)).toBe(KEY);
    const data = hash(SIGNATURE);
    const one = { name: "PeterNeumann", keyHash: data.slice(0, 4), signature: data.slice(4) };
    const checkpoint = { origin: "", epoch: 1, trustDomain: "", size: 0, root: ofText("") };
    const note = { text: TEXT, checkpoint, signatures: [one] };
    const changed = { ...note, text: TEXT.replace("you", "You") };
    expect(await checkSignatures(note, [key])).toEqual(["verified"]);
    expect(await checkSignatures(changed, [key])).toEqual(["wrong"]);
    expect(await checkSignatures(note, [])).toEqual(["unknown"]);
  });

  it.each([
    KEY.replace("PeterNeumann", "PeterNewman"),
    KEY.replace("c74f20a3", "c74f20a4"),
    KEY.slice(0, -4),
    KEY.replace("ARpc", "Ahpc"),
    "",
  ])("%j is no verifier key", async (line) => {
    expect(await readVerifierKey(line)).toBeUndefined();
  });

  it("without the form of one are none", async () => {
    const ledger = new FakeLedger().grow(3);
    ledger.signers = [await makeSigner()];
    const note = await ledger.note();
    expect(readNote(note)?.checkpoint.size).toBe(3);
    for (const broken of [
      "",
      note.trimEnd(),
      note.replace("\n\n", "\n"),
      note.replace("\n3\n", "\n03\n"),
      note.replace("\n3\n", "\n-3\n"),
      note.replace("/ledger/1\n", "/ledger/x\n"),
      note.replace("— ", "- "),
      note + note.split("\n\n")[1]?.repeat(20),
    ]) {
      expect(readNote(broken)).toBeUndefined();
    }
  });
});

describe("the verification of an entry", () => {
  let ledger: FakeLedger;
  let signer: Signer;
  let memory: Memory;

  beforeEach(async () => {
    signer = await makeSigner();
    ledger = new FakeLedger().grow(21);
    ledger.signers = [signer];
    memory = Memory.read(shelf());
  });

  const verify = async (index: number, changes = {}) =>
    verifyEntry(await ledger.claim(index), ledger.source(changes), memory, now);

  it("remembers the key and the checkpoint of a first look, and holds the next against them", async () => {
    const first = await verify(4);
    expect(outcomes(first)).toEqual({
      leaf: "passed",
      path: "passed",
      signature: "passed",
      key: "first",
      consistency: "first",
    });
    expect(memory.pins.map((pin) => toHex(pin.public))).toEqual([toHex(signer.public)]);
    ledger.grow(9);
    const second = await verify(29);
    expect(second.outcome).toBe("passed");
    expect(textOf(second, "consistency")).toContain("the checkpoint of 21 entries");
    expect(memory.seen("example.org/ledger/1")?.size).toBe(30);
    expect((await verify(0)).outcome).toBe("passed");
  });

  it("finds every entry of every size of tree, and in no other place", async () => {
    for (let size = 1; size <= 21; size += 1) {
      const leaves = await ledger.leaves(size);
      const root = toHex(await rootOf(leaves));
      for (const [index, leaf] of leaves.entries()) {
        const path = await pathOf(index, leaves);
        const found = await followPath(index, size, leaf, path);
        expect(found && toHex(found)).toBe(root);
        const other = await followPath((index + 1) % size, size, leaf, path);
        expect(other !== undefined && toHex(other) === root).toBe(size === 1);
      }
    }
  });

  it("refuses bytes that were changed, with their hash and without", async () => {
    const claim = await ledger.claim(4);
    claim.bytes = ofText('{"entry":5000}');
    const edited = await verifyEntry(claim, ledger.source(), memory, now);
    expect(outcomes(edited)).toMatchObject({ leaf: "failed", path: "failed", signature: "passed" });
    claim.leafHash = toHex(await hashLeaf(claim.bytes));
    const rehashed = await verifyEntry(claim, ledger.source(), memory, now);
    expect(outcomes(rehashed)).toMatchObject({ leaf: "passed", path: "failed" });
    expect(rehashed.outcome).toBe("failed");
    // Of an answer that was wrong nothing is learned.
    expect(memory.pins).toEqual([]);
    expect(memory.seen(ledger.origin)).toBeUndefined();
  });

  it("refuses an entry in another's place", async () => {
    const claim = { ...(await ledger.claim(5)), leafIndex: 4 };
    expect((await verifyEntry(claim, ledger.source(), memory, now)).outcome).toBe("failed");
  });

  it("refuses a path with another hash, one more, or one less", async () => {
    const right = await ledger.source().inclusion(4, 21);
    const rest = right.slice(1);
    const zeros = "00".repeat(32);
    for (const path of [rest, [...right, zeros], [zeros, ...rest], ["x"]]) {
      const verdict = await verify(4, { inclusion: () => Promise.resolve(path) });
      expect(outcomes(verdict)).toMatchObject({ path: "failed", leaf: "passed" });
    }
  });

  it("refuses a checkpoint whose text or signature was changed", async () => {
    await verify(0);
    const note = await ledger.note();
    for (const forged of [note.replace("\n21\n", "\n22\n"), note.replace(/.{20}(?=.{40}\n$)/, "A".repeat(20))]) {
      const verdict = await verify(4, { note: () => Promise.resolve(forged) });
      expect(outcomes(verdict).signature).toBe("failed");
      expect(outcomes(verdict).consistency).toBe("skipped");
      expect(verdict.outcome).toBe("failed");
    }
    const unsigned = await verify(4, { note: () => Promise.resolve("not a note\n") });
    expect(unsigned.outcome).toBe("failed");
  });

  it("is loud about another key, and believes it only once it is told to", async () => {
    await verify(0);
    const other = await makeSigner();
    ledger.signers = [other];
    const changed = await verify(0);
    expect(outcomes(changed)).toMatchObject({ signature: "failed", key: "failed" });
    expect(textOf(changed, "key")).toContain("THE KEY HAS CHANGED");
    expect(changed.strangers.map((key) => toHex(key.public))).toEqual([toHex(other.public)]);
    expect((await verify(0)).outcome).toBe("failed");
    memory.pin("example.org", other.public, NOW);
    expect((await verify(0)).outcome).toBe("passed");
  });

  it("goes on through a rotation, and names the key that is new", async () => {
    await verify(0);
    const next = await makeSigner();
    ledger.signers = [next, signer];
    const verdict = await verify(0);
    expect(verdict.outcome).toBe("passed");
    expect(verdict.signatures.map((one) => one.state)).toEqual(["unknown", "verified"]);
    expect(verdict.strangers.map((key) => toHex(key.public))).toEqual([toHex(next.public)]);
    memory.pin("example.org", next.public, NOW);
    ledger.signers = [next];
    expect((await verify(0)).outcome).toBe("passed");
  });

  it("is loud about a past that was rewritten and signed again", async () => {
    await verify(0);
    ledger.entries[3] = ofText('{"entry":"another"}');
    ledger.grow(4);
    const verdict = await verify(0);
    expect(outcomes(verdict)).toMatchObject({ path: "passed", signature: "passed", consistency: "failed" });
    expect(textOf(verdict, "consistency")).toContain("THE LEDGER'S PAST HAS CHANGED");
    expect(memory.seen(ledger.origin)?.size).toBe(21);
  });

  it("is loud about a ledger that was cut, and not about an answer that another tab overtook", async () => {
    await verify(0);
    const older = new FakeLedger().grow(15);
    older.signers = [signer];
    const late = await verifyEntry(
      await older.claim(1),
      ledger.source({ note: () => older.note(), inclusion: older.source().inclusion }),
      memory,
      now,
    );
    expect(late.outcome).toBe("passed");
    ledger.entries = ledger.entries.slice(0, 15);
    const cut = await verify(0);
    expect(outcomes(cut).consistency).toBe("failed");
    expect(textOf(cut, "consistency")).toContain("cannot prove");
  });

  it("knows a new epoch, does not go back to the one before, and still reads it when asked", async () => {
    await verify(0);
    const before = [...ledger.entries];
    ledger.epoch = 2;
    ledger.entries = [];
    ledger.grow(3, "new");
    const begun = await verify(0);
    expect(begun.outcome).toBe("first");
    expect(textOf(begun, "consistency")).toContain("epoch 2");
    ledger.epoch = 1;
    ledger.entries = before;
    expect(outcomes(await verify(0)).consistency).toBe("failed");
    expect((await verify(0, { epoch: 1 })).outcome).toBe("passed");
    expect(outcomes(await verify(0, { epoch: 2 })).consistency).toBe("failed");
  });

  it("another platform under the same address is not the one that is remembered", async () => {
    await verify(0);
    ledger.trustDomain = "example.net";
    const verdict = await verify(0);
    expect(outcomes(verdict).key).toBe("failed");
    expect(textOf(verdict, "key")).toContain("example.net");
  });

  it("claims nothing where it cannot be told", async () => {
    const newer = await verifyEntry(
      { ...(await ledger.claim(4)), leafIndex: 40 },
      ledger.source(),
      memory,
      now,
    );
    expect(newer.outcome).toBe("untold");
    const down = () => Promise.reject(new Error("the platform does not answer"));
    expect((await verify(0, { note: down })).outcome).toBe("untold");
    expect((await verify(0, { inclusion: down })).outcome).toBe("untold");
    const verdict = await verify(0, { keys: () => Promise.reject(new Unsupported("No Ed25519.")) });
    expect(verdict.outcome).toBe("untold");
    expect(textOf(verdict, "signature")).toContain("verify.py");
  });

  it("of a checkpoint alone learns as much", async () => {
    expect((await verifyCheckpoint(ledger.source(), memory, now)).outcome).toBe("first");
    expect((await verifyCheckpoint(ledger.source(), memory, now)).outcome).toBe("passed");
  });
});

describe("what the browser remembers", () => {
  const checkpoint = {
    origin: "example.org/ledger/1",
    epoch: 1,
    trustDomain: "example.org",
    size: 5,
    root: new Uint8Array(32).fill(7),
  };

  it("is there after the page, and only grows", () => {
    const place = shelf();
    const memory = Memory.read(place);
    memory.pin("example.org", new Uint8Array(32).fill(1), NOW);
    memory.remember(checkpoint, NOW);
    memory.remember({ ...checkpoint, size: 4 }, NOW);
    const again = Memory.read(place);
    expect(again.pins.map((pin) => pin.public[0])).toEqual([1]);
    expect(again.seen(checkpoint.origin)?.size).toBe(5);
    expect(again.seen("constructor")).toBeUndefined();
    again.unpin(new Uint8Array(32).fill(1));
    expect(Memory.read(place).pins).toEqual([]);
    expect(Memory.read(place).seen(checkpoint.origin)?.size).toBe(5);
  });

  it("is not overwritten where it was damaged, until it is forgotten", () => {
    const place = shelf();
    place.items.set("tg-ledger-memory/1", '{"keys":3}');
    const memory = Memory.read(place);
    expect(memory.isDamaged).toBe(true);
    memory.remember(checkpoint, NOW);
    expect(place.items.get("tg-ledger-memory/1")).toBe('{"keys":3}');
    memory.forget();
    memory.remember(checkpoint, NOW);
    expect(Memory.read(place).seen(checkpoint.origin)?.size).toBe(5);
  });

  it("says where this browser keeps nothing", () => {
    const place = shelf();
    place.setItem = () => {
      throw new Error("full");
    };
    const memory = Memory.read(place);
    memory.remember(checkpoint, NOW);
    expect(memory.isKept).toBe(false);
  });
});
