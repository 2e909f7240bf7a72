const KEY = /^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$/;
const VALUE = /^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$/;

/** Read `gpu=true, region=us-east`; `error` says what is wrong with the first that is no tag. */
export function parseTags(text: string): { tags: Record<string, string>; error: string } {
  const tags: Record<string, string> = {};
  for (const part of text.split(/[,\n]/).map((one) => one.trim())) {
    if (part === "") continue;
    const [key = "", value, ...rest] = part.split("=").map((one) => one.trim());
    if (value === undefined || rest.length > 0) {
      return { tags: {}, error: `“${part}” is not of the form key=value.` };
    }
    if (!KEY.test(key) || !VALUE.test(value)) {
      return { tags: {}, error: `“${part}”: letters, digits, and . _ - between them.` };
    }
    if (key in tags) return { tags: {}, error: `“${key}” is there twice.` };
    tags[key] = value;
  }
  return { tags, error: "" };
}
