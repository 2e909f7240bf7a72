// A customer's key: brought as material by the very command that the page shows, rotated, its old
// version destroyed by two people, taken away, back again, and ended. And the platform's own is
// rotated and rewrapped. Somebody else watches, and reads only.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { renameSync } from "node:fs";
import path from "node:path";

import { setUpSecondFactor } from "./authenticator.mjs";

const DAYS = 10;

export default async function journey({ page, facts, newContext, signIn }) {
  const dialog = page.getByRole("dialog");
  const standing = page.getByTestId("standing");
  const versions = page.getByRole("table", { name: "Versions" });
  const versionRow = (version) =>
    versions.getByRole("row").filter({ has: page.getByTitle(version, { exact: true }) });
  await signIn(page);
  await page.getByRole("link", { name: "Keys", exact: true }).click();
  await page.getByRole("button", { name: "Add a fleet's key" }).click();
  await dialog.getByLabel("Fleet").selectOption(facts.fleet);
  await dialog.getByLabel("ARN of the key").fill("arn:aws:kms:eu-central-1:111122223333:alias/kek");
  await dialog.getByRole("button", { name: "Add key" }).click();
  await dialog.getByText("It looks like arn:aws:kms").waitFor();
  await dialog.getByLabel("Import material").check();
  await dialog.getByRole("button", { name: "Add key" }).click();
  await page.waitForURL(/\/keys\/[0-9a-f-]{36}$/);
  await standing.getByText("In use").waitFor();
  const id = page.url().split("/").at(-1);

  // Somebody who may only read watches the list.
  const other = await (await newContext({})).newPage();
  await signIn(other, { email: "viewer@example.org", password: facts.account.password });
  await other.goto(`/keys?q=${facts.fleet}`);
  const seen = other.getByRole("table", { name: "Fleets' own keys" }).getByRole("row").nth(1);
  await seen.getByText("In use").waitFor();
  assert.equal(await other.getByRole("button", { name: "Add a fleet's key" }).count(), 0);

  // Material that the command makes and wraps becomes a version, and ends.
  await page.getByRole("button", { name: "Import material…" }).click();
  const downloading = page.waitForEvent("download");
  await dialog.getByRole("button", { name: "Get params.json" }).click();
  await (await downloading).saveAs(path.join(facts.directory, "params.json"));
  const command = await dialog.locator("code").filter({ hasText: "--generate" }).innerText();
  const [program, ...words] = command.split(" ");
  assert.equal(program, "tensorguard");
  execFileSync(facts.python, ["-m", "tensorguard.cli", ...words], {
    cwd: facts.directory,
    env: { ...process.env, PYTHONPATH: facts.root },
    stdio: "ignore",
  });
  const file = dialog.getByLabel("wrapped.json");
  await file.setInputFiles(path.join(facts.directory, "params.json"));
  await dialog.getByText("That is params.json.").waitFor();
  await file.setInputFiles(path.join(facts.directory, "wrapped.json"));
  await dialog.getByLabel("Ends after this day").fill("2020-01-01");
  await dialog.getByText("That day is over already.").waitFor();
  const end = new Date(Date.now() + DAYS * 86_400_000).toISOString().slice(0, 10);
  await dialog.getByLabel("Ends after this day").fill(end);
  await dialog.getByRole("button", { name: "Import", exact: true }).click();
  await standing.getByText("Expires soon").waitFor();
  await versionRow("2").getByText("wraps what is new").waitFor();
  await seen.getByText("Expires soon").waitFor(); // live
  assert.ok(await page.getByRole("button", { name: "Rewrap…" }).isDisabled());
  await page.getByText("Not now: Nothing is under this key yet.").waitFor();

  // A version that is needed stays; another is disabled, and destroyed by two people.
  await page.getByRole("button", { name: "Rotate…" }).click();
  await dialog.getByTestId("confirm").click();
  await versionRow("3").getByText("wraps what is new").waitFor();
  await versionRow("3").getByText("Rotate first.").waitFor();
  await versionRow("1").getByRole("button", { name: "Disable" }).click();
  await dialog.getByTestId("confirm").click();
  await versionRow("1").getByText("Disabled").waitFor();
  await versionRow("1").getByRole("button", { name: "Enable" }).click();
  await dialog.getByTestId("confirm").click();
  await versionRow("1").getByText("Enabled").waitFor();
  await versionRow("1").getByRole("button", { name: "Destroy" }).click();
  await dialog.getByLabel("Reason").fill("It was only there to be replaced");
  await dialog.getByTestId("confirm").click();
  await page.getByText("Nothing has happened yet.").waitFor();
  await approve(await (await newContext({})).newPage(), facts, signIn);
  await versionRow("1").getByText("Destroyed").waitFor(); // live

  // Its owner takes it away: everybody is told what follows. And gives it back.
  const shown = await page.request.get(`/api/v1/keys/${id}`);
  const kek = path.join(facts.keks, `${(await shown.json()).key_id}.json`);
  renameSync(kek, `${kek}.away`);
  await page.getByRole("button", { name: "Look at it now" }).click();
  const trouble = page.getByTestId("trouble");
  await trouble.getByText(`Agents of ${facts.fleet} are granted no model keys`).waitFor();
  await standing.getByText("Taken away").waitFor();
  await page.getByText("It has to be back first.").first().waitFor();
  await seen.getByText("Taken away").waitFor();
  await other.getByTestId("gone").getByText(facts.fleet).waitFor();
  renameSync(`${kek}.away`, kek);
  await page.getByRole("button", { name: "Look at it now" }).click();
  await trouble.waitFor({ state: "detached" });
  await seen.getByText("Expires soon").waitFor();

  await page.getByRole("button", { name: "Remove…" }).click();
  await dialog.getByText("The customer's say over what is released ends.").waitFor();
  await dialog.getByTestId("confirm").click();
  await standing.getByText("Retired").waitFor();
  await other.getByText("No fleet's key is like this").or(other.getByText("No fleet has a key of its own")).waitFor();
  await other.goto(`/keys?q=${facts.fleet}&state=retired`);
  await seen.getByText("Retired").waitFor();

  return rewrapThePlatformsKey(page, dialog);
}

async function approve(page, facts, signIn) {
  await signIn(page, facts.approver);
  await page.goto("/approvals");
  const request = page.getByRole("row").filter({ hasText: `the key of ${facts.fleet}` });
  await request.getByRole("button", { name: "Decide" }).click();
  await page.getByText("never opens again").waitFor();
  await page.getByRole("button", { name: "Approve and do it" }).click();
  await setUpSecondFactor(page, facts.approver.password);
  await page.getByTestId("approval-state").getByText("Approved").waitFor();
  await page.context().close();
}

/** Returns what was seen to be left, one after the other. */
async function rewrapThePlatformsKey(page, dialog) {
  await page.goto("/keys");
  await page.getByRole("link", { name: "Versions and actions" }).click();
  await page.getByRole("button", { name: "Rotate…" }).click();
  await dialog.getByTestId("confirm").click();
  await page.getByText("not under its newest version yet.").waitFor();
  await page.getByRole("button", { name: "Rewrap…" }).click();
  await dialog.getByLabel("Secrets a second, at most").fill("2");
  await dialog.getByRole("button", { name: "Rewrap", exact: true }).click();
  const job = page.getByTestId("rewrap");
  await job.and(page.locator("[data-state=running]")).waitFor();
  await page.getByText("Not now: A job is at it.").waitFor();
  const left = await page.evaluate(async () => {
    const found = [];
    for (;;) {
      const at = document.querySelector("[data-testid=rewrap]");
      if (at?.dataset.state !== "running") return found;
      const now = Number(at.querySelector("[data-testid=left]")?.textContent?.replace(/\D/g, ""));
      if (now !== found.at(-1)) found.push(now);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
  await job.and(page.locator("[data-state=done]")).waitFor();
  await page.getByText("Not now: Every secret is under its newest version.").waitFor();
  assert.ok(left.length > 2, `it is seen how it goes on: ${left}`);
  assert.deepEqual(left, [...left].sort((a, b) => b - a), "there is never more left than before");
  return { left };
}
