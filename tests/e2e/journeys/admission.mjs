// Devices that wait are let in and turned away, many at once; one is released afterwards.
import assert from "node:assert/strict";

export default async function journey({ page, facts, signIn }) {
  const dialog = page.getByRole("dialog");
  await signIn(page);

  // A token that lets nobody in without a person.
  await page.goto(`/fleets/${facts.fleet}`);
  await page.getByRole("button", { name: "New token" }).click();
  await dialog.getByRole("radio", { name: /Manual/ }).check();
  await dialog.getByLabel("Agents that may use it").fill("7");
  await dialog.getByLabel("Only from this network").fill("10.20.0.0/16");
  await dialog.getByRole("button", { name: "Make token" }).click();
  await dialog.getByText("Each device waits under").waitFor();
  await dialog.getByRole("button", { name: "Close without copying" }).click();
  const token = page.getByRole("row", { name: /7 of 7/ });
  await token.getByText("Manual").waitFor();
  await token.getByText("10.20.0.0/16").waitFor();
  await token.getByRole("button", { name: "Revoke" }).click();
  await dialog.getByTestId("confirm").click();
  await token.waitFor({ state: "detached" });

  // More wait than a page shows.
  await page.goto(`/enrollment?fleet=${facts.fleet}`);
  const devices = page.getByRole("table", { name: "Devices that wait" });
  await devices.getByRole("row").nth(25).waitFor();
  await devices.getByText("h · Linux · x86_64").first().waitFor();
  await devices.getByText("Token").first().waitFor();
  const approve = page.getByRole("button", { name: "Approve", exact: true });
  assert.ok(await approve.isDisabled());
  await page.getByRole("button", { name: "Select all that wait" }).click();
  await page.getByText(`${facts.names.length} selected`).waitFor();
  const [kept, rejected] = facts.names;
  for (const name of [kept, rejected]) {
    await devices.getByRole("checkbox", { name: `Select ${name}`, exact: true }).uncheck();
  }
  await approve.click();
  await dialog.getByRole("heading", { name: `Approve ${facts.names.length - 2} agents?` }).waitFor();
  await dialog.getByTestId("confirm").click();
  await page.getByText(`${facts.names.length - 2} agents approved.`).waitFor();
  await devices.getByRole("row").nth(3).waitFor({ state: "detached" });
  assert.equal(await devices.getByRole("row").count(), 3);

  // One is turned away with a reason, one is let in by its own button.
  await page.getByRole("button", { name: `Reject ${rejected}`, exact: true }).click();
  const reject = dialog.getByRole("button", { name: "Reject", exact: true });
  assert.ok(await reject.isDisabled());
  await dialog.getByLabel("Reason").fill("Not <b>ours</b>");
  await reject.click();
  await page.getByText("1 agent rejected.").waitFor();
  await page.getByRole("button", { name: `Approve ${kept}`, exact: true }).click();
  await page.getByText("Nobody waits here").waitFor();

  // Who was turned away may come again when somebody releases the device.
  await page.goto(`/agents?fleet=${facts.fleet}&status=rejected`);
  await page.getByRole("link", { name: rejected, exact: true }).click();
  await page.getByText("Not <b>ours</b>").first().waitFor();
  await page.getByRole("button", { name: "Release" }).click();
  await dialog.getByText("whoever holds the device may enrol again.").waitFor();
  await dialog.getByLabel("Reason").fill("It is ours after all");
  await dialog.getByTestId("confirm").click();
  await page.getByText("device released").waitFor();
  assert.equal(await page.getByRole("button", { name: "Release" }).count(), 0);
  assert.equal(await page.locator("b").count(), 0);
}
