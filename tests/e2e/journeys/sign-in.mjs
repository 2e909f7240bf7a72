import assert from "node:assert/strict";

export default async function journey({ page, facts }) {
  await page.goto("/agents?presence=online");
  await page.waitForURL("**/sign-in?next=**");
  await page.getByLabel("E-mail address").fill(facts.account.email);
  await page.getByLabel("Password").fill("wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").getByText("no user has this e-mail address", { exact: false }).waitFor();

  await page.getByLabel("Password").fill(facts.account.password);
  await page.getByLabel("Password").press("Enter");
  await page.waitForURL("**/agents?presence=online");
  assert.equal(await page.getByLabel("Presence").inputValue(), "online");

  const cookies = await page.context().cookies();
  assert.ok(cookies.every((cookie) => cookie.httpOnly && cookie.sameSite === "Strict"));

  await page.getByRole("button", { name: "Your account" }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await page.waitForURL("**/sign-in");
  await page.goto("/ledger");
  await page.waitForURL("**/sign-in?next=**");

  // A link to the sign-in page sends nobody elsewhere.
  for (const next of ["//example.org", "https://example.org", "/\\example.org"]) {
    await page.goto(`/sign-in?next=${encodeURIComponent(next)}`);
    await page.getByLabel("E-mail address").fill(facts.account.email);
    await page.getByLabel("Password").fill(facts.account.password);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("heading", { name: "Overview" }).waitFor();
    assert.equal(new URL(page.url()).pathname, "/");
    await page.getByRole("button", { name: "Your account" }).click();
    await page.getByRole("menuitem", { name: "Sign out" }).click();
    await page.waitForURL("**/sign-in");
  }
}
