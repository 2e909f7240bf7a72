// The kill switch of a fleet: one person asks, another approves, both with a second factor.
import assert from "node:assert/strict";

import { setUpSecondFactor } from "./authenticator.mjs";

export default async function journey({ page, facts, newContext, signIn }) {
  const dialog = page.getByRole("dialog", { name: "Revoke the whole fleet?" });
  await signIn(page, facts.requester);
  await page.goto(`/fleets/${facts.fleet}`);
  await page.getByRole("button", { name: "Revoke fleet" }).click();
  const ask = dialog.getByRole("button", { name: "Ask to revoke the fleet" });
  await dialog.getByLabel("Reason").fill("The site's key is stolen");
  await dialog.getByLabel(/to confirm/).fill(`${facts.fleet}x`);
  assert.ok(await ask.isDisabled());
  await dialog.getByLabel(/to confirm/).fill(facts.fleet);
  await ask.click();
  // There is no second factor yet: it is asked for, and what was typed goes on afterwards.
  await setUpSecondFactor(page, facts.requester.password);
  await page.getByText("Nothing has happened yet.").waitFor();
  await page.getByRole("link", { name: "See the request" }).click();
  await page.getByTestId("why-not").waitFor();
  assert.ok(await page.getByRole("button", { name: "Approve and do it" }).isDisabled());
  await page.goto(`/fleets/${facts.fleet}`);
  await page.getByRole("heading", { level: 1 }).waitFor();
  assert.equal(await page.getByTestId("fleet-receipt").count(), 0);

  // The other person sees that something waits, without looking for it.
  const other = await (await newContext({})).newPage();
  await signIn(other, facts.approver);
  await other.getByRole("navigation", { name: "Main" }).getByTestId("menu-count").waitFor();
  await other.getByRole("link", { name: /^Approvals/ }).click();
  const request = other.getByRole("row").filter({ hasText: facts.fleet });
  await request.getByText("left").waitFor();
  await request.getByRole("button", { name: "Decide" }).click();
  const drawer = other.getByRole("dialog", { name: "Revoke a whole fleet" });
  await drawer.getByText(`"The site's key is stolen"`).waitFor();
  const hash = await drawer.getByTitle(/^[0-9a-f]{64}$/).innerText();
  assert.match(hash, /^[0-9a-f]{64}$/);
  await drawer.getByRole("button", { name: "Approve and do it" }).click();
  await setUpSecondFactor(other, facts.approver.password);
  await drawer.getByTestId("approval-state").getByText("Approved").waitFor();

  // Who asked sees it happen.
  const receipt = page.getByTestId("fleet-receipt");
  await receipt.getByText("Complete").waitFor();
  await receipt.getByText(`${facts.agents} agents revoked`).waitFor();
  await receipt.getByText("1 session disconnected").waitFor();
  await receipt.getByText(/since [\d,]+ ms after the approval/).waitFor();
  await page.goto(`/agents?fleet=${facts.fleet}&status=active`);
  await page.getByText("No agent is like this").waitFor();
  await other.close();
}
