// A code is asked for when something takes one, and what was typed goes on by itself.
import assert from "node:assert/strict";

import { setUpSecondFactor, showCode } from "./authenticator.mjs";

export default async function journey({ page, facts, signIn }) {
  await signIn(page, facts.person);
  await page.getByRole("button", { name: "Your account" }).click();
  await page.getByRole("menuitem", { name: "Set up a second factor" }).click();
  const app = await setUpSecondFactor(page, facts.person.password);
  await page.getByText(`It is on for ${facts.person.email}.`).waitFor();
  await page.keyboard.press("Escape");

  // Another session has shown no code.
  await page.getByRole("button", { name: "Your account" }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await page.waitForURL("**/sign-in");
  await signIn(page, facts.person);
  await page.goto(`/approvals?approval=${facts.approvalId}`);
  await page.getByRole("button", { name: "Reject…" }).click();
  const form = page.getByRole("dialog", { name: "Reject this request?" });
  await form.getByLabel("Reason").fill("Nobody told me of this");
  await form.getByTestId("confirm").click();
  const prompt = page.getByRole("dialog", { name: "Show that it is you" });
  await prompt.waitFor();

  // Given up: the form still has what was typed, and says why nothing happened.
  await page.keyboard.press("Escape");
  await form.getByRole("alert").waitFor();
  assert.equal(await form.getByLabel("Reason").inputValue(), "Nobody told me of this");
  await form.getByTestId("confirm").click();
  const right = app.code();
  await showCode(page, right === "000000" ? "000001" : "000000");
  await prompt.getByRole("alert").waitFor();
  await showCode(page, right);
  await prompt.waitFor({ state: "detached" });
  await page.getByTestId("approval-state").getByText("Rejected").waitFor();
  await page.getByRole("dialog").getByText("Nobody told me of this").first().waitFor();

  // Stepped up, nothing more is asked for a while.
  await page.goto(`/approvals?approval=${facts.secondApprovalId}`);
  await page.getByRole("button", { name: "Approve and do it" }).click();
  await page.getByTestId("approval-state").getByText("Approved").waitFor();
  assert.equal(await prompt.count(), 0);
}
