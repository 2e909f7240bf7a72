interface TrustedTypes {
  createPolicy: (name: string, rules: { createHTML: (markup: string) => string | null }) => unknown;
  defaultPolicy: unknown;
}

/** Let a library empty an element by `innerHTML = ""` (zrender does) under the page's policy, which
 * lets no text become markup: nothing but the empty text passes here either. */
export function allowEmptyMarkup(): void {
  const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };
  if (trustedTypes === undefined || trustedTypes.defaultPolicy !== null) return;
  trustedTypes.createPolicy("default", { createHTML: (markup) => (markup === "" ? "" : null) });
}
