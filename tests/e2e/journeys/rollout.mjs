// A canary that goes wrong: planned, stopped by its gate, looked into, and rolled back.
import assert from "node:assert/strict";

export default async function journey({ page, facts, newContext, signIn }) {
  const dialog = page.getByRole("dialog");
  const preview = page.getByRole("complementary", { name: "Who gets it" });
  const headline = page.getByTestId("headline");
  await signIn(page);

  // The newest release is chosen already; a selector is wrong at a character, and says which.
  await page.goto("/deployments");
  await page.getByRole("link", { name: "New deployment" }).click();
  const start = page.getByRole("button", { name: "Start deployment" });
  await preview.getByText("Choose a fleet.").waitFor();
  assert.ok(await start.isDisabled());
  await page.getByRole("checkbox", { name: new RegExp(` ${facts.fleet}`) }).check();
  await preview.getByText(`${facts.agents} agents`, { exact: true }).waitFor();
  const selector = page.getByLabel("Only agents with tags");
  await selector.fill("gpu in ()x");
  await page.getByText("Character 10:", { exact: false }).waitFor();
  assert.equal(await selector.getAttribute("aria-invalid"), "true");
  await page.getByRole("button", { name: "Go there" }).click();
  assert.equal(await selector.evaluate((it) => it.selectionStart), 9);
  assert.ok(await start.isDisabled());
  await selector.fill("");

  // A fifth first. What is typed wrong is said beside it, and what is shown is what starts.
  await page.getByText("Stages and gates").click();
  const first = page.getByRole("group", { name: "Stage 1" });
  await first.getByLabel("Agents in it so far").fill("101");
  await first.getByText("From 1 to 100.").waitFor();
  await preview.getByText("Stage 1: From 1 to 100.").waitFor();
  await first.getByLabel("Agents in it so far").fill("20");
  await first.getByLabel("All that holds for").fill("1h");
  const canary = preview.getByRole("listitem").filter({ hasText: "20 %" });
  await canary.getByText(`${facts.canary} agents`).waitFor();
  await page.waitForFunction(() => document.querySelector("[aria-busy=true]") === null);
  const names = await canary.getByRole("link").allInnerTexts();
  assert.equal(names.length, facts.canary);
  await start.click();
  await page.waitForURL(/\/deployments\/[0-9a-f-]{36}$/);

  // Live: the gate fails, and says so in one sentence and in numbers.
  const failed = `Stage 1: ${facts.canary} of ${facts.canary} agents (100 %) failed; at most 5 % may.`;
  await headline.getByText(failed).waitFor();
  await page.getByTestId("state").getByText("Paused").waitFor();
  await page.locator("[data-testid=gate-failure][data-standing=broken]").getByText("100 %").waitFor();
  await page.getByTestId("stage-1").getByText("Failed", { exact: true }).waitFor();
  await page.getByTestId("stage-2").getByText("To come").waitFor();

  // By reason, then by agent; and those of the preview it is.
  await page.getByRole("link", { name: /out of memory/ }).click();
  const table = page.getByRole("table", { name: "Agents of this deployment" });
  await page.getByText("Only with the reason", { exact: false }).waitFor();
  await table.getByRole("row").nth(facts.canary + 1).waitFor({ state: "detached" });
  const shown = await table.getByRole("link").allInnerTexts();
  assert.deepEqual(shown.toSorted(), names.toSorted());
  const downloading = page.waitForEvent("download");
  await page.getByRole("link", { name: "CSV" }).click();
  assert.match((await downloading).suggestedFilename(), /^deployment-.*\.csv$/);

  // What cannot be done says why to whoever cannot see it; what can be done, what it does.
  await page.getByRole("button", { name: "Resume" }).click();
  await dialog.getByText("it pauses again at once.", { exact: false }).waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: "Advance" }).click();
  await dialog.getByText("The gate of stage 1 has not passed", { exact: false }).waitFor();
  assert.ok(await dialog.getByTestId("confirm").isDisabled());
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Roll back" }).click();
  await dialog.getByText(`${facts.canary} agents will go back to ${facts.previous}.`).waitFor();
  await dialog.getByLabel("Reason").fill("It <b>eats</b> memory");
  await dialog.getByTestId("confirm").click();
  await page.getByTestId("state").getByText("Rolled back").waitFor();
  await headline
    .getByText(`${facts.canary} of ${facts.canary} agents are back. It <b>eats</b> memory.`)
    .waitFor();
  assert.equal(await page.getByRole("button", { name: "Abort" }).count(), 0);

  // The list says why, and the release what had changed.
  await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name: "Deployments" }).click();
  await page.getByRole("row", { name: /Rolled back.*eats/ }).waitFor();
  await page.goto(`/releases/${facts.releaseId}`);
  const changes = page.getByRole("table", { name: "Values of the manifest that changed" });
  await changes.getByRole("row", { name: /Version/ }).getByText(facts.previous).waitFor();

  // What has not begun is ended as well, and does not look as if it might yet begin.
  await page.goto(`/deployments/${facts.planned}`);
  await page.getByRole("heading", { name: "If it started now" }).waitFor();
  await page.getByRole("button", { name: "Abort" }).click();
  await dialog.getByText("Nobody has been told of it.").waitFor();
  await dialog.getByLabel("Reason").fill("the wrong release");
  await dialog.getByTestId("confirm").click();
  await page.getByText("It never started").waitFor();
  await page.getByText("not yet", { exact: true }).first().waitFor({ state: "detached" }); // ended
  assert.equal(await page.getByRole("heading", { name: "If it started now" }).count(), 0);

  // One agent is told to say how it is; whoever may only read sees what came of it, live.
  const reader = await (await newContext({})).newPage();
  await signIn(reader, { email: "viewer@example.org", password: facts.account.password });
  await reader.goto(`/agents/${facts.agentId}`);
  await reader.getByRole("heading", { level: 1 }).waitFor();
  await page.goto(`/agents/${facts.agentId}`);
  await page.getByRole("button", { name: "Set tags" }).click();
  await dialog.getByLabel("Tags").fill("gpu");
  await dialog.getByText("is not of the form", { exact: false }).waitFor();
  await dialog.getByLabel("Tags").fill("gpu=true");
  await dialog.getByTestId("confirm").click();
  await page.getByTestId("command-set-tags").getByText("Done").waitFor();
  await reader.getByTestId("command-set-tags").getByText("Done").waitFor();
  assert.equal(await reader.getByRole("button", { name: "Set tags" }).count(), 0);
  await page.getByTitle("gpu=true").first().waitFor();
}
