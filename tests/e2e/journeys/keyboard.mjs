// Without a pointer: to the content, through a menu, into a dialog and out of it.
import assert from "node:assert/strict";

const focused = (page) =>
  page.evaluate(() => {
    const it = document.activeElement;
    return `${it?.getAttribute("aria-label") ?? ""} ${it?.textContent?.trim() ?? ""}`.trim();
  });

export default async function journey({ page, signIn }) {
  await signIn(page);
  await page.goto("/fleets");
  await page.getByRole("table").waitFor();
  await page.keyboard.press("Tab");
  assert.match(await focused(page), /Skip to the content/);
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.match(await focused(page), /New fleet/);
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog", { name: "New fleet" });
  await dialog.waitFor();
  assert.equal(await page.evaluate(() => document.activeElement?.tagName), "INPUT");
  for (let step = 0; step < 12; step += 1) {
    await page.keyboard.press("Tab");
    assert.ok(await dialog.evaluate((it) => it.contains(document.activeElement)), "focus stays inside");
  }
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  assert.match(await focused(page), /New fleet/);

  await page.getByRole("button", { name: "Theme" }).focus();
  await page.keyboard.press("Enter");
  await page.keyboard.press("End");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
  await page.reload();
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
}
