// What a first visit transfers until the page is there; what draws charts comes after that, if there
// is anything to draw.
import assert from "node:assert/strict";

export default async function journey({ page, context, signIn }) {
  const session = await context.newCDPSession(page);
  await session.send("Network.enable");
  const sizes = new Map();
  const urls = new Map();
  session.on("Network.responseReceived", ({ requestId, response }) => {
    urls.set(requestId, new URL(response.url).pathname);
  });
  session.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
    const path = urls.get(requestId) ?? "";
    if (!path.startsWith("/api/")) sizes.set(path, encodedDataLength);
  });
  await signIn(page);
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.waitForTimeout(1000);
  const paths = [...sizes.keys()];
  const index = await (await page.request.get("/")).text();
  assert.ok(!index.includes("charts"), index);
  for (const path of paths.filter((one) => one.includes("charts"))) sizes.delete(path);
  const assets = paths.filter((path) => path.startsWith("/assets/"));
  assert.ok(assets.length > 3);
  const bytes = [...sizes.values()].reduce((sum, size) => sum + size, 0);

  // A second visit takes hashed files from the cache.
  sizes.clear();
  await page.reload();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.waitForTimeout(500);
  const again = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  return { firstLoadBytes: bytes, secondLoadBytes: again };
}
