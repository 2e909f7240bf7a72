/** Checkpoints: C2SP tlog-checkpoint in a C2SP signed note, Ed25519. */
import {
  type Bytes,
  fromBase64,
  isSame,
  joined,
  ofText,
  sha256,
  subtle,
  toBase64,
  toHex,
  Unsupported,
} from "./bytes";

const ED25519 = 1;
const KEY_BYTES = 32;
const HASH_BYTES = 4;
const MOST_SIGNATURES = 16;
const MOST_CHARACTERS = 16_384;
const SIGNATURE = /^— ([^\s+]+) ([A-Za-z0-9+/=]+)$/;
const VERIFIER_KEY = /^([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)$/;

/** What a note says about the whole ledger; nothing of it is to be believed before its signature
 * was verified. */
export interface Checkpoint {
  origin: string;
  epoch: number;
  trustDomain: string;
  size: number;
  root: Bytes;
}

export interface Signature {
  name: string;
  keyHash: Bytes;
  signature: Bytes;
}

export interface Note {
  /** What was signed. */
  text: string;
  checkpoint: Checkpoint;
  signatures: Signature[];
}

/** The line of a verifier key: `<name>+<hash>+<base64>`. */
export interface VerifierKey {
  name: string;
  public: Bytes;
}

/** Read a note; undefined where it is none. Its signatures are not verified by this. */
export function readNote(note: string): Note | undefined {
  const end = note.lastIndexOf("\n\n");
  if (end < 0 || note.length > MOST_CHARACTERS || !note.endsWith("\n")) return undefined;
  const text = note.slice(0, end + 1);
  const lines = note.slice(end + 2, -1).split("\n");
  const signatures = lines.map(readSignature);
  const checkpoint = readText(text);
  if (checkpoint === undefined || lines.length > MOST_SIGNATURES) return undefined;
  if (!signatures.every((one) => one !== undefined)) return undefined;
  return { text, checkpoint, signatures };
}

function readText(text: string): Checkpoint | undefined {
  const [origin = "", size = "", root = ""] = text.split("\n");
  const named = /^(.+)\/ledger\/([1-9]\d{0,14})$/.exec(origin);
  const hash = fromBase64(root);
  if (named === null || !/^(?:0|[1-9]\d{0,15})$/.test(size) || hash?.length !== KEY_BYTES) {
    return undefined;
  }
  return {
    origin,
    epoch: Number(named[2]),
    trustDomain: named[1] ?? "",
    size: Number(size),
    root: hash,
  };
}

function readSignature(line: string): Signature | undefined {
  const match = SIGNATURE.exec(line);
  const data = fromBase64(match?.[2] ?? "");
  if (match?.[1] === undefined || data === undefined || data.length <= HASH_BYTES) return undefined;
  return { name: match[1], keyHash: data.slice(0, HASH_BYTES), signature: data.slice(HASH_BYTES) };
}

/** Read a verifier key; undefined where it is none, or its hash is not of this name and key. */
export async function readVerifierKey(line: string): Promise<VerifierKey | undefined> {
  const match = VERIFIER_KEY.exec(line.trim());
  const data = fromBase64(match?.[3] ?? "");
  if (match?.[1] === undefined || data?.length !== 1 + KEY_BYTES || data[0] !== ED25519) {
    return undefined;
  }
  const key = { name: match[1], public: data.slice(1) };
  return toHex(await keyHashOf(key)) === match[2] ? key : undefined;
}

/** The line of a verifier key. */
export async function writeVerifierKey(key: VerifierKey): Promise<string> {
  const data = joined([Uint8Array.of(ED25519), key.public]);
  return `${key.name}+${toHex(await keyHashOf(key))}+${toBase64(data)}`;
}

/** The four bytes that find a key in a note: of SHA-256(name ‖ LF ‖ 0x01 ‖ key). */
async function keyHashOf(key: VerifierKey): Promise<Bytes> {
  const hash = await sha256(ofText(`${key.name}\n`), Uint8Array.of(ED25519), key.public);
  return hash.slice(0, HASH_BYTES);
}

export type SignatureState = "verified" | "wrong" | "unknown";

/** Whether these keys have made the note's signatures, one answer each; `unknown` where none of
 * them is named by it. Throws Unsupported. */
export async function checkSignatures(
  note: Note,
  keys: readonly VerifierKey[],
): Promise<SignatureState[]> {
  const hashed = await Promise.all(
    keys.map(async (key) => ({ key, hash: await keyHashOf(key), with: await importKey(key) })),
  );
  const signed = ofText(note.text);
  return Promise.all(
    note.signatures.map(async (one) => {
      const named = hashed.filter(
        ({ key, hash }) => key.name === one.name && isSame(hash, one.keyHash),
      );
      for (const { with: publicKey } of named) {
        if (await subtle().verify("Ed25519", publicKey, one.signature, signed)) return "verified";
      }
      return named.length === 0 ? "unknown" : "wrong";
    }),
  );
}

async function importKey(key: VerifierKey): Promise<CryptoKey> {
  try {
    return await subtle().importKey("raw", key.public, "Ed25519", false, ["verify"]);
  } catch (error) {
    if (error instanceof DOMException && error.name === "NotSupportedError") {
      throw new Unsupported("This browser cannot verify Ed25519 signatures.");
    }
    throw error;
  }
}
