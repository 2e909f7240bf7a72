// An upload is cut, and repeated whole.
import assert from "node:assert/strict";

export default async function journey({ page, facts, signIn }) {
  await signIn(page);
  await page.goto("/packages");
  let cuts = 1;
  await page.route("**/api/v1/packages", (route) => {
    if (route.request().method() !== "PUT" || cuts === 0) return route.continue();
    cuts -= 1;
    return route.abort("connectionreset");
  });
  await page.getByRole("button", { name: "Upload", exact: true }).click();
  const dialog = page.getByRole("dialog");
  await page.getByLabel("Package file").setInputFiles(facts.package);
  await dialog.getByRole("alert").waitFor();
  await dialog.getByRole("button", { name: "Send it again" }).click();
  await dialog.getByText("is here, with the digest").waitFor();

  // Once more: it is here already, and that is no error.
  await page.getByLabel("Package file").setInputFiles(facts.package);
  await dialog.getByText("is here, with the digest").waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  const rows = page.getByRole("row", { name: facts.packageName });
  await rows.first().waitFor();
  assert.equal(await rows.count(), 1);
}
