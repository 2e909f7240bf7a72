// A publisher is registered by two persons, and agents are told: draft, sign elsewhere, publish.
import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";

import { setUpSecondFactor } from "./authenticator.mjs";

const run = promisify(execFile);

export default async function journey({ page, facts, newContext, signIn }) {
  const other = await (await newContext({})).newPage();
  await signIn(page, facts.requester);
  await page.goto("/packages?tab=publishers");
  await page.getByRole("button", { name: "Register publisher" }).click();
  const dialog = page.getByRole("dialog", { name: "Register a publisher" });
  const ask = dialog.getByRole("button", { name: "Ask to register it" });
  await dialog.getByLabel("Name", { exact: true }).fill(facts.publisher);
  await dialog.getByLabel("Packages it may sign").fill(`${facts.publisher}-*`);
  await dialog.getByLabel("Public key (PEM)").fill("-----BEGIN PRIVATE KEY-----");
  await ask.click();
  await dialog.getByText("This is a private key.").waitFor();
  await dialog.getByLabel("Public key (PEM)").fill(facts.pem);
  await ask.click();
  await dialog.getByText("Nothing has happened yet.").waitFor();
  await page.keyboard.press("Escape");

  await signIn(other, facts.approver);
  await approve(other, facts.publisher);
  await setUpSecondFactor(other, facts.approver.password);
  await other.getByTestId("approval-state").getByText("Approved").waitFor();

  // Who asked sees at once that agents have yet to be told, and of what.
  const row = page.getByRole("row").filter({ hasText: facts.publisher });
  await row.getByText("Waits for the next trust bundle").waitFor();
  await page.getByTestId("awaited").getByText(`ADDS publisher ${facts.kid}`).waitFor();
  const downloading = page.waitForEvent("download");
  await page.getByRole("link", { name: "Download the draft" }).click();
  const draft = path.join(facts.directory, "draft.json");
  await (await downloading).saveAs(draft);
  await page.getByTestId("signed-file").setInputFiles(draft);
  await page.getByText("Nobody has signed this draft yet.").waitFor();
  const sign = ["-m", "tensorguard.cli", "trust", "sign", draft, "--key", facts.rootKey, "--yes"];
  await run(facts.python, sign, { env: { ...process.env, PYTHONPATH: facts.root } });
  await page.getByTestId("signed-file").setInputFiles(draft);
  await page.getByRole("button", { name: "Ask to publish it" }).click();
  await page.getByText("Nothing has happened yet.").waitFor();
  await approve(other, "version");
  await other.getByTestId("approval-state").getByText("Approved").waitFor();

  await row.getByText(/In trust bundle|Believed by/).waitFor();
  await row.getByRole("link", { name: facts.publisher }).click();
  await page.getByRole("heading", { level: 1, name: facts.publisher }).waitFor();
  await page.getByText(/trust bundle \d+/).first().waitFor();
  await other.close();
}

/** Approve the request that names this. */
async function approve(page, text) {
  await page.goto("/approvals");
  const request = page.getByRole("row").filter({ hasText: text }).filter({ hasText: "left" });
  await request.getByRole("button", { name: "Decide" }).click();
  await page.getByRole("button", { name: "Approve and do it" }).click();
}
