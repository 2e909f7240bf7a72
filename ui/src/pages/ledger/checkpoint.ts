/** A checkpoint, read: C2SP tlog-checkpoint, a signed note. */
export interface Checkpoint {
  origin: string;
  size: number;
  rootHash: string;
  signers: string[];
}

/** Read a checkpoint; undefined where the note is none. Its signatures are not verified here. */
export function readCheckpoint(note: string): Checkpoint | undefined {
  const [body = "", signatures = ""] = note.split("\n\n", 2);
  const [origin, size, rootHash] = body.split("\n");
  if (!origin || !size || !rootHash || !/^\d+$/.test(size)) return undefined;
  const signers = signatures
    .split("\n")
    .filter((line) => line.startsWith("— "))
    .map((line) => line.split(" ")[1] ?? "");
  return { origin, size: Number(size), rootHash, signers };
}
