/** What an upload goes through, in this order, and the refusals that belong to each step. */
export const STEPS = [
  {
    name: "transfer",
    text: "Whole file transferred",
    codes: ["package-too-large", "package-store-full", "body-too-large", "unsupported-media-type"],
  },
  {
    name: "container",
    text: "It is a package, and complete",
    codes: ["bad-container", "not-a-package", "truncated", "trailing-bytes", "section-too-large"],
  },
  {
    name: "signature",
    text: "Signed by a registered publisher who may sign this name",
    codes: [
      "signature-error",
      "bad-sigs",
      "duplicate-signer",
      "unsigned",
      "unknown-publisher",
      "publisher-not-yet-valid",
      "publisher-expired",
      "unknown-signature-alg",
      "bad-signature",
      "publisher-not-allowed",
    ],
  },
  {
    name: "manifest",
    text: "Manifest is well formed and valid today",
    codes: [
      "not-canonical",
      "bad-manifest",
      "bad-path",
      "unknown-policy",
      "unknown-payload-alg",
      "bad-selector",
      "length-mismatch",
      "outside-window",
      "not-yet-valid",
      "expired",
    ],
  },
  {
    name: "payload",
    text: "Encrypted payload has the digest that was signed",
    codes: ["payload-error", "ciphertext-mismatch", "file-mismatch"],
  },
  {
    name: "key",
    text: "Its key opens for this platform, and is the payload's",
    codes: [
      "grant-error",
      "bad-grants",
      "duplicate-recipient",
      "no-grant",
      "unknown-grant-alg",
      "grant-expired",
      "grant-refused",
      "wrong-dek",
      "payload-refused",
      "package-unusable",
    ],
  },
  {
    name: "unique",
    text: "Version and sequence number are new",
    codes: ["package-seq-taken", "package-version-taken"],
  },
] as const;

export type StepState = "waiting" | "working" | "passed" | "failed" | "skipped";
export type Upload =
  | { phase: "sending" | "verifying" | "done" }
  | { phase: "failed"; code: string };

/** Where each step stands. The platform verifies in this order, so that what comes before the
 * refusal has passed, and what comes after was not looked at. */
export function stepStates(upload: Upload): StepState[] {
  switch (upload.phase) {
    case "sending":
      return STEPS.map((_, place) => (place === 0 ? "working" : "waiting"));
    case "verifying":
      return STEPS.map((_, place) => (place === 0 ? "passed" : "working"));
    case "done":
      return STEPS.map(() => "passed");
    case "failed": {
      const { code } = upload;
      const failed = STEPS.findIndex(({ codes }) => (codes as readonly string[]).includes(code));
      if (failed < 0) return STEPS.map((_, place) => (place === 0 ? "failed" : "skipped"));
      return STEPS.map((_, place) => {
        if (place === failed) return "failed";
        return place < failed ? "passed" : "skipped";
      });
    }
  }
}
