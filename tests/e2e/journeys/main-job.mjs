// From nothing to a model on a real agent, and the end of that agent.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export default async function journey({ page, facts, signIn }) {
  const measured = {};
  const state = path.join(facts.directory, "agent");
  const tensorguard = ["-m", "tensorguard.cli"];
  const environment = { ...process.env, PYTHONPATH: facts.root };
  await signIn(page);

  // A fleet, and a join string that is shown once.
  await page.getByRole("link", { name: "Fleets" }).click();
  await page.getByRole("button", { name: /New fleet|Make the first fleet/ }).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill(facts.fleetName);
  assert.equal(await dialog.getByLabel("Slug").inputValue(), facts.fleet);
  await dialog.getByLabel("Heartbeat interval in seconds").fill("2");
  await dialog.getByRole("button", { name: "Make fleet" }).click();
  await page.waitForURL(`**/fleets/${facts.fleet}`);
  await page.getByRole("button", { name: "New token" }).click();
  await dialog.getByLabel("Tags for its agents").fill("gpu=true, region=us-east");
  await dialog.getByRole("button", { name: "Make token" }).click();
  await dialog.getByText("It is shown this once.", { exact: false }).waitFor();
  await dialog.getByRole("button", { name: "Copy join string" }).click();
  const join = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(join, /^tg1\.[A-Za-z0-9_-]+$/);
  await dialog.getByRole("button", { name: "Done" }).click();
  assert.equal(await page.getByText(join).count(), 0);

  // A real agent, seen as it comes.
  const enrolling = run(
    facts.python,
    [...tensorguard, "agent", "enroll", join, "--name", facts.agent, "--state-dir", state],
    { env: environment },
  );
  await enrolling;
  await page.goto(`/agents?fleet=${facts.fleet}`);
  const row = page.getByRole("row", { name: new RegExp(facts.agent) });
  await row.getByText("Never seen").waitFor();
  const agent = spawn(facts.python, [...tensorguard, "agent", "run", "--state-dir", state], {
    env: environment,
    stdio: ["ignore", "ignore", "ignore"],
  });
  try {
    await row.getByText("Online").waitFor();
    // Told by the stream: a page that is live asks for nothing by itself.
    await page.getByTestId("live").and(page.locator("[data-state=live]")).waitFor();
    measured.seenAfterMs = await measureSeeing(page);

    // A package, verified before anybody sees it; a broken one is refused at the step it fails.
    await page.getByRole("link", { name: "Packages" }).click();
    await page.getByRole("button", { name: "Upload", exact: true }).click();
    await page.getByLabel("Package file").setInputFiles(facts.brokenPackage);
    await dialog.getByRole("listitem").filter({ hasText: "digest that was signed" }).and(page.locator("[data-state=failed]")).waitFor();
    await page.getByLabel("Package file").setInputFiles(facts.package);
    await dialog.getByText("is here, with the digest").waitFor();
    assert.equal(await dialog.locator("[data-state=passed]").count(), 7);
    await dialog.getByRole("button", { name: "Make a release" }).click();
    await dialog.getByRole("button", { name: "Make release" }).click();
    await page.waitForURL("**/packages?tab=releases");

    // A deployment, watched until the agent has reported the digest.
    await page.getByRole("link", { name: "Deploy", exact: true }).first().click();
    await page.getByRole("checkbox", { name: new RegExp(facts.fleet) }).check();
    await page.getByLabel("Only agents with tags").fill("gpu=true");
    await page.getByRole("radio", { name: /All at once/ }).check();
    await page.getByTestId("due").getByText("1 agent", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Start deployment" }).click();
    await page.waitForURL(/\/deployments\/[0-9a-f-]{36}$/);
    await page.getByTestId("state").getByText("Completed").waitFor();
    assert.equal(await page.getByTestId("done").innerText(), "1");
    await page.getByRole("link", { name: facts.agent }).click();
    await page.getByText("It runs what it should.").waitFor();
    await page.getByRole("img", { name: "CPU, memory and disk over time" }).waitFor();

    // The kill switch, and its receipt.
    await page.getByRole("button", { name: "Revoke" }).click();
    const revoke = dialog.getByRole("button", { name: "Revoke agent" });
    assert.ok(await revoke.isDisabled());
    await dialog.getByLabel("Reason").fill("Stolen <b>from the dock</b>");
    const id = page.url().split("/").at(-1);
    await dialog.getByLabel(/to confirm/).fill(id.slice(-6));
    await revoke.click();
    await page.getByText("Complete", { exact: true }).waitFor();
    await page.getByText("1 session disconnected").waitFor();
    await page.getByText("Stolen <b>from the dock</b>").first().waitFor();
    assert.equal(await page.getByRole("button", { name: "Revoke" }).count(), 0);

    // All of it is in the ledger, its bytes checked here.
    await page.getByRole("link", { name: "Ledger" }).click();
    await page.getByRole("button", { name: "Agent revoked" }).first().click();
    await dialog.getByText(/^Verified/).waitFor();
  } finally {
    agent.kill("SIGTERM");
  }
  return measured;
}

/** How long heartbeats take to be seen: from their arrival to the page. */
async function measureSeeing(page) {
  return page.evaluate(
    async ({ count, withinMs }) => {
      const cell = () => document.querySelector("tbody td:last-child time[datetime]")?.getAttribute("datetime");
      const found = [];
      let last = cell();
      const end = Date.now() + withinMs;
      while (found.length < count && Date.now() < end) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        const now = cell();
        if (now !== last && now) found.push(Date.now() - Date.parse(now));
        last = now;
      }
      return found;
    },
    { count: 2, withinMs: 60_000 },
  );
}
