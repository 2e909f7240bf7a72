/** The commands with which whoever holds a CA's key proves it: a certificate over the challenge. */
export function proofCommands(challenge: string): string[] {
  return [
    "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out proof.key",
    `openssl req -new -key proof.key -subj "/CN=${challenge}" -out proof.csr`,
    "openssl x509 -req -in proof.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -out proof.pem",
    "cat proof.pem",
  ];
}

const PEM = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

/** What is wrong with a pasted text that has to be one certificate; empty where nothing is. */
export function pemError(text: string): string {
  if (text.includes("PRIVATE KEY")) {
    return "That is a private key. Take it out of here: only a certificate is needed.";
  }
  const found = text.match(PEM)?.length ?? 0;
  if (found === 0) return "Paste a certificate: -----BEGIN CERTIFICATE----- and what follows.";
  return found > 1 ? "That is more than one certificate: paste one." : "";
}

/** Serial numbers, one a line or between commas, each once; null where there are none. */
export function parseSerials(text: string): string[] | null {
  const serials = text
    .split(/[,\n]/)
    .map((one) => one.trim())
    .filter((one) => one !== "");
  return serials.length === 0 ? null : [...new Set(serials)];
}
