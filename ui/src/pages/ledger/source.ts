import { api, unwrap } from "@/api/client";
import { isProblem } from "@/api/problem";
import { NoProof, type Source } from "@/ledger/verification";

/** This platform, as what is to be verified. */
export function platformSource(epoch: number | undefined): Source {
  return {
    epoch,
    note: () => unwrap(api.GET("/api/v1/ledger/checkpoint", { params: { query: { epoch } }, parseAs: "text" })),
    keys: () => unwrap(api.GET("/api/v1/ledger/key", { parseAs: "text" })),
    inclusion: (index, size) =>
      proven(
        unwrap(
          api.GET("/api/v1/ledger/proof/inclusion", { params: { query: { index, size, epoch } } }),
        ).then((proof) => proof.audit_path),
      ),
    consistency: (first, second) =>
      proven(
        unwrap(
          api.GET("/api/v1/ledger/proof/consistency", {
            params: { query: { first, second, epoch } },
          }),
        ).then((proof) => proof.consistency_path),
      ),
  };
}

async function proven(answer: Promise<string[]>): Promise<string[]> {
  try {
    return await answer;
  } catch (error) {
    if (isProblem(error, "no-such-proof")) throw new NoProof(error.message);
    throw error;
  }
}
