/** Where a join string leads; empty where it is none. See docs/protocol.md, "Joining". */
export function joinUrlOf(join: string): string {
  const [, body] = /^tg1\.([A-Za-z0-9_-]+)$/.exec(join) ?? [];
  if (body === undefined) return "";
  try {
    const { url } = JSON.parse(atob(body.replaceAll("-", "+").replaceAll("_", "/"))) as {
      url?: unknown;
    };
    return typeof url === "string" ? url : "";
  } catch {
    return "";
  }
}

/** Whether only the very machine that it names gets to an address. */
export function isLoopback(url: string): boolean {
  try {
    const { hostname } = new URL(url);
    return hostname === "localhost" || hostname === "[::1]" || /^127\./.test(hostname);
  } catch {
    return false;
  }
}
