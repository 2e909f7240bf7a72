// The platform is away for a while: what was known stays and looks stale, and then goes on.
import assert from "node:assert/strict";

export default async function journey({ page, context, signIn }) {
  await signIn(page);
  await page.goto("/fleets");
  await page.getByRole("table").waitFor();
  await context.setOffline(true);
  await page.evaluate(() => dispatchEvent(new Event("offline")));
  await page.getByTestId("live").getByText("Stale for").waitFor();
  assert.ok(await page.getByRole("table").isVisible());
  await page.getByText("What you see was known at").waitFor();
  // A page that was never opened cannot be loaded now; this one stays.
  await page.getByRole("link", { name: "Deployments" }).click();
  await page.getByText("That page could not be loaded").waitFor();
  assert.ok(await page.getByRole("table").isVisible());

  await context.setOffline(false);
  await page.getByTestId("live").getByText(/Live|Every 5 s/).waitFor();
  await page.getByText("What you see was known at").waitFor({ state: "detached" });
  await page.getByRole("link", { name: "Deployments" }).click();
  await page.getByRole("link", { name: "New deployment" }).waitFor();
}
