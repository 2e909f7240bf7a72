// Names that devices and people choose are text, wherever they are shown.
import assert from "node:assert/strict";

export default async function journey({ page, facts, signIn }) {
  const violations = [];
  await page.exposeFunction("tellViolation", (text) => violations.push(text));
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      globalThis.tellViolation(`${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  await signIn(page);
  const paths = [
    "/",
    "/fleets",
    `/fleets/${facts.fleet}`,
    "/agents",
    ...facts.agentIds.map((id) => `/agents/${id}`),
    "/deployments?new=1",
    "/ledger",
    "/users",
    "/enrollment",
    "/approvals",
    "/trust",
  ];
  for (const width of [1280, 360]) {
    await page.setViewportSize({ width, height: 740 });
    for (const path of paths) {
      await page.goto(path);
      await page.locator("h1").waitFor();
      await page.waitForLoadState("networkidle", { timeout: 1500 }).catch(() => undefined);
      await page.evaluate(() => document.querySelectorAll("details").forEach((it) => (it.open = true)));
      assert.equal(await page.locator("img, script:not([src])").count(), 0, path);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${path} is ${wide} px too wide at ${width}`);
    }
  }
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.goto("/agents");
  for (const name of facts.names) {
    await page.getByRole("link", { name, exact: true }).first().waitFor();
  }
  await page.goto("/fleets");
  await page.getByText(facts.fleetName, { exact: true }).waitFor();
  assert.deepEqual(violations, []);
}
