/** What an upload goes through, in this order; the refusals that belong to each step, in words. */
export const STEPS = [
  {
    name: "transfer",
    text: "Whole file transferred",
    codes: {
      "package-too-large": "It is larger than packages may be here.",
      "package-store-full": "There is no room for it on the platform.",
      "package-store-unavailable": "The place where packages are kept does not answer.",
      "body-too-large": "It is larger than packages may be here.",
      "unsupported-media-type": "It was not sent as a package.",
      "too-many-uploads": "Too many uploads are open.",
      "upload-not-found": "Nothing came for a day, and the upload has ended.",
      "upload-lost": "What had come of it is lost.",
    },
  },
  {
    name: "container",
    text: "It is a package, and complete",
    codes: {
      "bad-container": "The file is damaged.",
      "not-a-package": "The file does not begin as a package does.",
      truncated: "The file ends too early.",
      "trailing-bytes": "Something follows the end of the package.",
      "section-too-large": "A part of its head is larger than the format allows.",
    },
  },
  {
    name: "signature",
    text: "Signed by a registered publisher who may sign this name",
    codes: {
      "signature-error": "Nobody's signature makes it believable.",
      "bad-sigs": "Its signatures are damaged.",
      "duplicate-signer": "One publisher has signed it twice.",
      unsigned: "Nobody has signed it.",
      "unknown-publisher": "No publisher who is registered here has signed it.",
      "publisher-not-yet-valid": "Its publisher's key does not count yet.",
      "publisher-expired": "Its publisher's key does not count any more.",
      "unknown-signature-alg": "It is signed in a way that this platform does not know.",
      "bad-signature": "It was changed after it was signed.",
      "publisher-not-allowed": "Its publisher may not sign packages of this name.",
    },
  },
  {
    name: "manifest",
    text: "Manifest is well formed and valid today",
    codes: {
      "tgsp-error": "It is not as the format has it.",
      "not-canonical": "Its manifest could be read in two ways.",
      "bad-manifest": "Something in its manifest is missing, unknown or out of bounds.",
      "too-many-files": "It has more files than a package may have.",
      "bad-path": "A file in it has a name that no device could keep safely.",
      "unknown-policy": "It asks for a protection that this platform does not know.",
      "unknown-payload-alg": "It is encrypted in a way that this platform does not know.",
      "bad-selector": "The selector of its target cannot be read.",
      "length-mismatch": "Its payload is not as long as the manifest says.",
      "outside-window": "It is not valid today.",
      "not-yet-valid": "It is not valid yet.",
      expired: "It is not valid any more.",
    },
  },
  {
    name: "payload",
    text: "Encrypted payload has the digest that was signed",
    codes: {
      "payload-error": "Its payload is damaged.",
      "ciphertext-mismatch": "Its payload is not the one that was signed.",
      "payload-refused": "Its payload does not open.",
      "file-mismatch": "A file in it is not the one that was signed.",
    },
  },
  {
    name: "key",
    text: "Its key opens for this platform, and is the payload's",
    codes: {
      "grant-error": "Its key does not open here.",
      "bad-grants": "Its list of keys is damaged.",
      "duplicate-recipient": "It holds two keys for one recipient.",
      "no-grant": "It was built for another platform.",
      "unknown-grant-alg": "Its key is sealed in a way that this platform does not know.",
      "grant-expired": "The time to open its key is over.",
      "grant-refused": "Its key was changed after it was sealed.",
      "wrong-dek": "The key in it is not the one that its payload is under.",
      "package-unusable": "This platform could never deploy it.",
    },
  },
  {
    name: "unique",
    text: "Version and sequence number are new",
    codes: {
      "package-seq-taken": "Another package of this name has its sequence number.",
      "package-version-taken": "Another package of this name has its version.",
    },
  },
] as const satisfies readonly {
  name: string;
  text: string;
  codes: Readonly<Record<string, string>>;
}[];

export type StepState = "waiting" | "working" | "passed" | "failed" | "skipped";
export type Upload =
  | { phase: "sending" | "paused" | "done" }
  | { phase: "verifying"; verifiedBytes: number }
  | { phase: "failed"; code: string };

const PAYLOAD = STEPS.findIndex(({ name }) => name === "payload");

/** Which step a refusal belongs to; none for what is no refusal of the package. */
export function stepOf(code: string): number | undefined {
  const found = STEPS.findIndex(({ codes }) => Object.hasOwn(codes, code));
  return found < 0 ? undefined : found;
}

/** What a refusal means, in a sentence. */
export function wordsOf(code: string): string | undefined {
  for (const { codes } of STEPS) {
    for (const [one, words] of Object.entries(codes)) if (one === code) return words;
  }
  return undefined;
}

/** Where each step stands. The platform verifies in this order, so that what comes before the
 * refusal has passed, and what comes after was not looked at. */
export function stepStates(upload: Upload): StepState[] {
  switch (upload.phase) {
    case "sending":
    case "paused":
      return STEPS.map((_, place) =>
        place === 0 && upload.phase === "sending" ? "working" : "waiting",
      );
    case "verifying": {
      // The bytes of the payload are read when all that stands before them was found good.
      const now = upload.verifiedBytes > 0 ? PAYLOAD : 1;
      return STEPS.map((_, place) =>
        place < now ? "passed" : place === now ? "working" : "waiting",
      );
    }
    case "done":
      return STEPS.map(() => "passed");
    case "failed": {
      const failed = stepOf(upload.code) ?? 0;
      return STEPS.map((_, place) => {
        if (place === failed) return "failed";
        return place < failed ? "passed" : "skipped";
      });
    }
  }
}
