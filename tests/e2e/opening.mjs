// Knowing that all of a page, or of what was opened on it, is there.

const PATIENCE_MS = 60_000;
const LOOKS = 2;
const EVERY_MS = 25;

/** Open a page, and wait until what it reads is there. */
export async function open(page, place) {
  await settled(page, async () => {
    await page.goto(place);
    await page.locator("h1").waitFor(); // by no role: a drawer may be open over it
  });
}

/** Do something, and wait until what the page then reads is there; only the stream never ends. */
export async function settled(page, action) {
  const reading = new Set();
  const began = (request) => {
    if (new URL(request.url()).pathname !== "/api/v1/events") reading.add(request);
  };
  const ended = (request) => reading.delete(request);
  const listeners = { request: began, requestfinished: ended, requestfailed: ended };
  for (const [name, listener] of Object.entries(listeners)) page.on(name, listener);
  try {
    await action();
    const deadline = Date.now() + PATIENCE_MS;
    for (let quiet = 0; quiet < LOOKS; ) {
      if (Date.now() > deadline) {
        throw new Error(`still read: ${[...reading].map((one) => one.url()).join(", ")}`);
      }
      await page.waitForTimeout(EVERY_MS);
      const isLoading = (await page.locator("[aria-label^=Loading]").count()) > 0;
      quiet = isLoading || reading.size > 0 ? 0 : quiet + 1;
    }
  } finally {
    for (const [name, listener] of Object.entries(listeners)) page.off(name, listener);
  }
}
