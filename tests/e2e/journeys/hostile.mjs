// Names that devices and people choose are text, wherever they are shown.
import assert from "node:assert/strict";
import { open } from "../opening.mjs";

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
    "/deployments/new",
    "/ledger",
    "/users",
    "/enrollment",
    "/approvals",
    "/trust",
  ];
  for (const path of paths) {
    await open(page, path);
    await page.evaluate(() => document.querySelectorAll("details").forEach((it) => (it.open = true)));
    for (const width of [360, 1280]) {
      await page.setViewportSize({ width, height: 740 });
      assert.equal(await page.locator("img, script:not([src])").count(), 0, path);
      await page
        .waitForFunction(() => document.documentElement.scrollWidth <= innerWidth)
        .catch(() => assert.fail(`${path} is wider than ${width} pixels`));
    }
  }
  await page.goto("/agents");
  for (const name of facts.names) {
    await page.getByRole("link", { name, exact: true }).first().waitFor();
  }
  await page.goto("/fleets");
  await page.getByText(facts.fleetName, { exact: true }).waitFor();
  assert.deepEqual(violations, []);
}
