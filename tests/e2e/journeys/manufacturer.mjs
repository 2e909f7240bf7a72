// A maker's CA is registered: pasted, proven with the very commands that the page shows, approved.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";

import { Authenticator, setUpSecondFactor } from "./authenticator.mjs";

export default async function journey({ page, facts, newContext, signIn }) {
  const dialog = page.getByRole("dialog");
  const directory = facts.directory;
  await signIn(page, facts.requester);
  await page.goto(`/fleets/${facts.fleet}`);
  await page.getByRole("button", { name: "Register a CA" }).click();
  await dialog.getByRole("textbox", { name: "Name" }).fill("Maker <i>of</i> cameras");
  await dialog.getByLabel("The CA's certificate (PEM)").fill(readFileSync(path.join(directory, "ca.key"), "utf8"));
  await dialog.getByLabel("Only these serial numbers").fill("SN-1\nSN-2, SN-1");
  await dialog.getByRole("button", { name: "Next" }).click();
  await dialog.getByText("That is a private key.").waitFor();
  await dialog.getByLabel("The CA's certificate (PEM)").fill(readFileSync(path.join(directory, "ca.pem"), "utf8"));
  await dialog.getByRole("button", { name: "Next" }).click();

  await dialog.getByText("Step 2 of 3").waitFor();
  const commands = await dialog.locator("code").filter({ hasText: /^openssl / }).allInnerTexts();
  assert.equal(commands.length, 3);
  // What proves nothing is refused, and the step stays.
  await dialog.getByLabel(/that it made/).fill(readFileSync(path.join(directory, "ca.pem"), "utf8"));
  await dialog.getByRole("button", { name: "Check the proof" }).click();
  await dialog.getByRole("alert").waitFor();
  for (const command of commands) {
    execFileSync("sh", ["-c", command], { cwd: directory, stdio: "ignore" });
  }
  await dialog.getByLabel(/that it made/).fill(readFileSync(path.join(directory, "proof.pem"), "utf8"));
  await dialog.getByRole("button", { name: "Check the proof" }).click();
  await dialog.getByText("Nothing has happened yet.").waitFor();
  await dialog.getByText("The proof is good.").waitFor();
  await dialog.getByRole("button", { name: "Close" }).first().click();
  const row = page.getByRole("table", { name: "Manufacturer CAs" }).getByRole("row").nth(1);
  await row.getByText("To be proven").waitFor();

  const other = await (await newContext({})).newPage();
  await signIn(other, facts.approver);
  await other.getByRole("button", { name: "Your account" }).click();
  await other.getByRole("menuitem", { name: "Set up a second factor" }).click();
  const app = await setUpSecondFactor(other, facts.approver.password);
  assert.ok(app instanceof Authenticator);
  await other.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  await other.getByRole("link", { name: /^Approvals/ }).click();
  const request = other.getByRole("row").filter({ hasText: "Register a manufacturer CA" });
  await request.getByRole("button", { name: "Decide" }).first().click();
  await other.getByRole("button", { name: "Approve and do it" }).click();
  await other.getByText("Approved, and done.").waitFor();

  // Live, where it was asked for.
  await row.getByText("Active").waitFor();
  await row.getByText("0 of 100").waitFor();
  await row.getByText("2 serials").click();
  const serials = row.getByLabel("Serial numbers that may enrol");
  await serials.and(page.locator("[aria-busy=false]")).waitFor();
  assert.equal(await serials.inputValue(), "SN-1\nSN-2");
  assert.equal(await page.locator("i").count(), 0);
  await row.getByRole("button", { name: /^Revoke/ }).click();
  await dialog.getByTestId("confirm").click();
  await page.getByText("No manufacturer CA is registered").waitFor();
  await other.close();
}
