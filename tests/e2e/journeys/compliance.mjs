// From a piece of the sunburst, and from its table, to the agents behind it; and a report that is
// opened, printed, and carries its proofs.
import assert from "node:assert/strict";
import path from "node:path";
import { open } from "../opening.mjs";

const STEPS = 72;
/** Where the ring of the reasons is, of the chart's radius. */
const OUTERMOST = 0.87;
/** So many agents a page of their list shows. */
const PAGE = 50;

export default async function journey({ page, context, facts, signIn }) {
  await signIn(page);
  await open(page, "/");
  const table = page.getByRole("table", { name: "Agents by fleet, band and reason" });
  await table.waitFor();

  // By the pointer: whichever piece is hit, the list shows exactly its agents.
  const chart = page.getByRole("img", { name: /^Agents by fleet, band and reason/ });
  await chart.locator("canvas").waitFor();
  const at = await clickPiece(page, chart);
  const [fleet, compliance] = [at.get("fleet"), at.get("compliance")];
  const counted = await page.evaluate(countOf, { fleet, compliance });
  assert.ok(counted > 0);
  await rows(page, Math.min(counted, PAGE));
  assert.equal(await page.getByLabel("Compliance").inputValue(), compliance);

  // By the keyboard.
  await open(page, "/");
  await table.getByRole("link", { name: `1 agent: ${facts.fleet}, Revoked` }).focus();
  await page.keyboard.press("Enter");
  await page.waitForURL(`**/agents?fleet=${facts.fleet}&compliance=revoked`);
  await rows(page, 1);
  await page.locator("tbody").getByText("Revoked").waitFor();

  await page.getByRole("link", { name: "Compliance", exact: true }).click();
  // The page before has a choice of fleets, too.
  await page.getByRole("heading", { level: 1, name: "Compliance" }).waitFor();
  await page.getByLabel("Fleet").selectOption(facts.fleet);
  await page.getByLabel("This quarter").check();
  const revoked = page.locator("dl > div").filter({ hasText: "agents revoked" }).locator("dd");
  await revoked.getByText("1", { exact: true }).waitFor();
  const times = page.locator("dl > div").filter({ hasText: "time to every front" }).locator("dd");
  await times.first().waitFor();
  assert.match((await times.allInnerTexts()).join(), /^[\d,]+ ms,[\d,]+ ms$/);
  // From a number to the entries behind it, and back to the report of the same fleet and days.
  await revoked.getByRole("link").click();
  await page.getByRole("table", { name: "Ledger entries" }).getByText("Agent revoked").waitFor();
  await rows(page, 1);
  await page.getByRole("link", { name: "Compliance report" }).click();
  await page.waitForURL(`**/compliance?fleet=${facts.fleet}&period=own&first=*&last=*`);
  await revoked.getByText("1", { exact: true }).waitFor();
  await open(page, "/compliance?fleet=nobody-made-it");
  await page.getByText("There is no fleet “nobody-made-it”", { exact: true }).waitFor();
  assert.equal(await page.getByRole("link", { name: "Open and print" }).count(), 0);
  await page.getByRole("button", { name: "Every fleet" }).click();
  await page.getByLabel("Fleet").selectOption(facts.fleet);
  await page.getByLabel("Other days").check();
  await page.getByLabel("Last day").fill("2001-01-01");
  await page.getByRole("alert").waitFor(); // it ends before it begins
  await page.getByLabel("Last 30 days").check();

  const opened = context.waitForEvent("page");
  await page.getByRole("link", { name: "Open and print" }).click();
  const report = await opened;
  await report.getByRole("heading", { name: `Compliance report: ${facts.fleet}` }).waitFor();
  // What a person wrote is text here, and no markup.
  assert.equal(await report.locator("b").count(), 0);
  await report.getByText("Left in a <b>taxi</b>").first().waitFor();
  await report.pdf({ path: path.join(facts.directory, "report.pdf"), preferCSSPageSize: true });
  const saved = report.waitForEvent("download");
  await report.locator("a[download]").click();
  await (await saved).saveAs(path.join(facts.directory, "evidence.ndjson.zst"));
  await report.close();
  await safeguard(page, facts.fleet);
}

/** A fleet's deployments take a second person from now on; to waive that takes one, too. */
async function safeguard(page, fleet) {
  await open(page, `/fleets/${fleet}`);
  await page.getByRole("link", { name: "The platform's key" }).waitFor();
  const need = page.getByTestId("deployments-need");
  await need.getByText("One person is enough.").waitFor();
  await need.getByRole("button", { name: "Require a second person" }).click();
  await page.getByTestId("confirm").click();
  await need.getByText("A second person has to agree to each.").waitFor();
  await need.getByRole("button", { name: "Waive the second person" }).click();
  await page.getByTestId("confirm").click();
  await page.getByText("Asked. Nothing has happened yet.").waitFor();
  await need.getByRole("button").waitFor({ state: "detached" });
}

/** Go along the outermost ring to a piece that leads somewhere, click it, and return the query. */
async function clickPiece(page, chart) {
  const box = await chart.boundingBox();
  const radius = (box.width / 2) * OUTERMOST;
  const hand = chart.locator("div[style*='cursor: pointer']");
  for (let step = 0; step < STEPS; step += 1) {
    const angle = (step / STEPS) * 2 * Math.PI;
    const x = box.x + box.width / 2 + radius * Math.cos(angle);
    const y = box.y + box.height / 2 + radius * Math.sin(angle);
    await page.mouse.move(x, y);
    if ((await hand.count()) === 0) continue;
    await page.mouse.click(x, y);
    await page.waitForURL((url) => url.pathname === "/agents");
    return new URL(page.url()).searchParams;
  }
  return assert.fail("no piece of the chart leads to its agents");
}

/** Wait until the list of agents has so many rows. */
async function rows(page, count) {
  await page
    .waitForFunction((many) => document.querySelectorAll("tbody tr").length === many, count)
    .catch(() => assert.fail(`${page.url()} does not list ${count} agents`));
}

/** In the page: how many the api has counted. */
async function countOf({ fleet, compliance }) {
  const answer = await fetch("/api/v1/compliance/sunburst");
  const { fleets } = await answer.json();
  const reasons = fleets
    .filter((one) => one.fleet === fleet)
    .flatMap((one) => one.bands.flatMap((band) => band.reasons));
  return reasons.find((one) => one.reason === compliance)?.agents ?? 0;
}
