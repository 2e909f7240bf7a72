// An upload is cut, paused, and taken up after a reload of the page; then it is here.
import assert from "node:assert/strict";

export default async function journey({ page, facts, signIn }) {
  await signIn(page);
  await page.goto("/packages");
  const uploads = "**/api/v1/packages/uploads/*";
  let patches = 0;
  const cut = (route) => {
    if (route.request().method() !== "PATCH") return route.continue();
    patches += 1;
    return route.abort("connectionreset");
  };
  await page.route(uploads, cut);
  const upload = page.getByRole("button", { name: "Upload", exact: true });
  const dialog = page.getByRole("dialog");
  const sent = page.waitForRequest((request) => request.method() === "PATCH");
  await upload.click();
  await page.getByLabel("Package file").setInputFiles(facts.package);
  await dialog.getByRole("button", { name: "Pause" }).click();
  await dialog.getByText("paused").waitFor();
  await dialog.getByRole("button", { name: "Resume" }).click();
  await dialog.getByRole("button", { name: "Pause" }).waitFor();
  await sent;

  // Nothing of it has come, but the platform knows of it, and says so after a reload.
  await page.reload();
  await upload.click();
  await dialog.getByLabel("Interrupted uploads").getByRole("listitem").waitFor();
  assert.ok(patches > 0);
  await page.unroute(uploads, cut);
  await page.getByLabel("Package file").setInputFiles(facts.package);
  await dialog.getByText("is here, with the digest").waitFor();

  // Once more: it is here already, and that is no error.
  await page.getByLabel("Package file").setInputFiles(facts.package);
  await dialog.getByText("is here, with the digest").waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  await upload.click();
  assert.equal(await dialog.getByLabel("Interrupted uploads").count(), 0);
  await page.keyboard.press("Escape");
  const rows = page.getByRole("row", { name: facts.packageName });
  await rows.first().waitFor();
  assert.equal(await rows.count(), 1);
}
