/** Where a selector goes wrong, as the api says it at the end of its message. */
const POSITION = /\s*\(at character (\d+)\)\.?$/;

export interface SelectorError {
  message: string;
  /** From 0; undefined where the message names none. */
  position: number | undefined;
}

export function readSelectorError(message: string): SelectorError {
  const found = POSITION.exec(message);
  return {
    message: message.replace(POSITION, ""),
    position: found === null ? undefined : Number(found[1]),
  };
}

/** The text around a position: what was read, what does not belong there, what is left. At the end
 * of the text there is nothing, which shows as a space. */
export function around(
  text: string,
  position: number,
  width = 24,
): { before: string; at: string; after: string } {
  const before = text.slice(0, position);
  const rest = text.slice(position + 1);
  return {
    before: before.length > width ? `…${before.slice(-width)}` : before,
    at: text[position] ?? " ",
    after: rest.length > width ? `${rest.slice(0, width)}…` : rest,
  };
}
