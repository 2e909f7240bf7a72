// The session ends while somebody types: they sign in over the page, and nothing is lost.
import assert from "node:assert/strict";

export default async function journey({ page, context, facts, signIn }) {
  await signIn(page);
  await page.goto("/fleets");
  await page.getByRole("button", { name: /New fleet|Make the first fleet/ }).first().click();
  const form = page.getByRole("dialog", { name: "New fleet" });
  await form.getByLabel("Name").fill("Typed with care");
  await context.clearCookies();
  await form.getByRole("button", { name: "Make fleet" }).click();

  const again = page.getByRole("dialog", { name: "Your session has ended" });
  await again.getByLabel("Password").fill("wrong");
  await again.getByRole("button", { name: "Sign in", exact: true }).click();
  await again.getByRole("alert").waitFor();
  await page.keyboard.press("Escape");
  await again.getByLabel("Password").fill(facts.account.password);
  await again.getByRole("button", { name: "Sign in", exact: true }).click();

  await page.waitForURL("**/fleets/typed-with-care");
  await page.getByRole("heading", { name: "Typed with care" }).waitFor();

  // Another tab signs out: this one is signed out, too.
  const other = await context.newPage();
  await other.goto("/");
  await other.getByRole("button", { name: "Your account" }).click();
  await other.getByRole("menuitem", { name: "Sign out" }).click();
  await page.waitForURL("**/sign-in");
  assert.equal(await page.getByRole("dialog").count(), 0);
}
