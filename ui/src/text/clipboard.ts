/** Copy; false where this browser does not let us (a page over plain HTTP from elsewhere). */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
