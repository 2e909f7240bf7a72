import type { Schemas } from "@/api/client";

export type Provider = Schemas["ProviderView"];
export type ProviderName = Provider["name"];

export const PROVIDER_NAMES: Record<ProviderName, string> = {
  local: "File on this machine",
  aws: "AWS KMS",
  azure: "Azure Key Vault",
  gcp: "Google Cloud KMS",
};

export function providerName(name: string): string {
  return PROVIDER_NAMES[name as ProviderName] ?? name;
}

/** What a reference looks like, and what of a key it names: the api looks at it closely. */
export const REFERENCES: Record<
  Exclude<ProviderName, "local">,
  { label: string; example: string; beginning: RegExp; hint: string }
> = {
  aws: {
    label: "ARN of the key",
    example: "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    beginning: /^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key\/[A-Za-z0-9-]+$/,
    hint: "A symmetric key, by its ARN. Not an alias: that may change what it names.",
  },
  azure: {
    label: "URL of the key",
    example: "https://VAULT.vault.azure.net/keys/NAME",
    beginning: /^https:\/\/[A-Za-z0-9.-]+(:\d{1,5})?\/keys\/[A-Za-z0-9-]+$/,
    hint: "An RSA key, without a version: its versions are rotated here.",
  },
  gcp: {
    label: "Resource name of the key",
    example: "projects/P/locations/L/keyRings/R/cryptoKeys/K",
    beginning: /^projects\/[^/\s]+\/locations\/[a-z0-9-]+\/keyRings\/[\w-]+\/cryptoKeys\/[\w-]+$/,
    hint: "A symmetric key, without a version: its versions are rotated here.",
  },
};

/** What is wrong with a key's name at a provider; empty where nothing is seen to be. */
export function nameError(provider: ProviderName, name: string): string {
  if (provider === "local") return "";
  const { beginning, example } = REFERENCES[provider];
  const text = withoutScheme(provider, name);
  if (text === "") return "Which key is it?";
  return beginning.test(text) ? "" : `It looks like ${example}`;
}

/** The reference as the api takes it; the scheme may have been pasted with it. */
export function referenceOf(provider: ProviderName, name: string): string {
  return provider === "local" ? "local" : `${provider}:${withoutScheme(provider, name)}`;
}

function withoutScheme(provider: ProviderName, name: string): string {
  const text = name.trim();
  return text.startsWith(`${provider}:`) ? text.slice(provider.length + 1) : text;
}

/** The end of a key's long name that tells it from others. */
export function shortKey(keyId: string): string {
  const end = keyId.split("/").at(-1) ?? keyId;
  return end.length > 24 ? `…${end.slice(-20)}` : end;
}

/** What the owner of a key at a provider has to allow the platform's account, in words. */
export const PERMISSIONS: Record<Exclude<ProviderName, "local">, string> = {
  aws: "The key's policy names the platform's role as principal, for kms:GenerateDataKey, kms:Decrypt, kms:DescribeKey and kms:ListKeyRotations.",
  azure: "The platform's identity has the role Key Vault Crypto Service Encryption User on the key.",
  gcp: "The platform's service account has the roles cloudkms.cryptoKeyEncrypterDecrypter and cloudkms.viewer on the key.",
};
