// A sink from its first test to its end: tried out before it is stored, paused, an entry that it
// does not take, a token that counts no more, and the banner that tells everybody.
import assert from "node:assert/strict";

export default async function journey({ page, facts, newContext, signIn }) {
  const dialog = page.getByRole("dialog");
  const standing = page.getByTestId("standing");
  const result = page.getByTestId("test-result");
  const picture = async (name) => {
    if (facts.pictures) await page.screenshot({ path: `${facts.pictures}/${name}.png` });
  };
  await signIn(page);
  await page.getByRole("link", { name: "Sinks", exact: true }).click();
  await page.getByText("Nothing leaves the ledger yet").waitFor();
  await picture("empty");
  await page.getByRole("button", { name: "Add a sink" }).click();
  await picture("kinds");
  await dialog.getByRole("button", { name: /^Webhook/ }).click();
  await dialog.getByRole("button", { name: "Make one" }).click();
  assert.match(await dialog.getByRole("textbox", { name: "Signing secret" }).inputValue(), /^whsec_[A-Za-z0-9+/]{43}=$/);
  await dialog.getByRole("button", { name: "Back" }).click();
  await dialog.getByRole("button", { name: /^Splunk/ }).click();
  await dialog.getByLabel("Name", { exact: true }).fill("SIEM of the house");
  await dialog.getByLabel("URL of the collector").fill("http://plain.example");
  await dialog.getByRole("textbox", { name: "Token" }).fill("a-token-nobody-knows");
  await dialog.getByRole("button", { name: "Send a test event" }).click();
  await dialog.getByText("It begins with https://").waitFor();
  await dialog.getByLabel("URL of the collector").fill(facts.collector);
  await dialog.getByRole("button", { name: "Send a test event" }).click();
  await result.getByText("The certificate is not believed", { exact: false }).or(result.getByText("TLS")).first().waitFor();
  await dialog.getByText("A certificate of your own CA").click();
  await dialog.getByLabel("CA certificates").fill(facts.ca);
  await dialog.getByRole("button", { name: "Send a test event" }).click();
  await result.getByText("Invalid token").waitFor();
  await picture("refused");
  await dialog.getByRole("textbox", { name: "Token" }).fill(facts.token);
  await dialog.getByRole("button", { name: "Send a test event" }).click();
  await result.getByText("The destination has taken the test event.").waitFor();
  await dialog.getByRole("button", { name: "Add sink" }).click();
  await page.waitForURL(/\/sinks\/[0-9a-f-]{36}$/);
  const id = page.url().split("/").at(-1);
  await standing.getByText("Sending").waitFor();
  await page.getByText("200", { exact: true }).waitFor();
  await picture("sending");
  assert.ok(!(await page.content()).includes(facts.token));

  // Somebody who may only read watches from the overview.
  const other = await (await newContext({})).newPage();
  await signIn(other, { email: "viewer@example.org", password: facts.account.password });
  const banner = other.getByTestId("sinks-banner");

  // That it was paused is what the destination does not take.
  await page.getByRole("button", { name: "Pause" }).click();
  await standing.getByText("Paused").waitFor();
  await page.getByRole("button", { name: "Resume" }).click();
  await standing.getByText("Sending").waitFor();
  const letters = page.getByRole("table", { name: "Dead letters" });
  await letters.getByText("sink.paused").waitFor();
  await picture("letter");
  await letters.getByRole("button", { name: /^Replay entry/ }).click();
  await letters.getByText("2 attempts").waitFor();
  await letters.getByRole("button", { name: /^Discard entry/ }).click();
  await dialog.getByTestId("confirm").click();
  await page.getByText("None. An entry that the destination refuses").waitFor();

  // A token that is not taken any more stops it, and everybody is told.
  await page.getByRole("button", { name: "Rotate secret" }).click();
  await dialog.getByRole("textbox", { name: "Token" }).fill("a-token-nobody-knows");
  await dialog.getByRole("button", { name: "Use the new secret" }).click();
  await standing.getByText("Stopped").waitFor();
  await page.getByTestId("trouble").getByText("hec-4").waitFor();
  await picture("stopped");
  await banner.getByText("SIEM of the house").waitFor(); // live
  await banner.getByRole("link", { name: "Look at it" }).click();
  await other.getByTestId("standing").getByText("Stopped").waitFor();
  assert.equal(await other.getByRole("button", { name: "Resume" }).count(), 0);
  await page.getByRole("button", { name: "Rotate secret" }).click();
  await dialog.getByRole("textbox", { name: "Token" }).fill(facts.token);
  await dialog.getByRole("button", { name: "Use the new secret" }).click();
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Resume" }).click();
  await standing.getByText("Sending").waitFor();
  await banner.waitFor({ state: "detached" });

  await page.getByRole("button", { name: "Send again" }).click();
  await dialog.getByLabel("From entry").fill("0");
  await dialog.getByRole("button", { name: "Send again" }).click();
  await dialog.waitFor({ state: "detached" });
  await page.goto("/sinks");
  const row = page.getByRole("table", { name: "Sinks" }).getByRole("row").nth(1);
  await row.getByText("SIEM of the house").waitFor();
  await row.locator("td").nth(2).filter({ hasText: /^\s*0\s*$/ }).waitFor(); // all sent again
  await picture("list");
  if (facts.pictures) {
    await page.emulateMedia({ colorScheme: "dark" });
    await picture("list-dark");
    await page.setViewportSize({ width: 360, height: 740 });
    await picture("list-narrow");
    await page.getByText("SIEM of the house").click();
    await standing.waitFor();
    await picture("sink-narrow");
    await page.setViewportSize({ width: 1280, height: 800 });
    await picture("sink-dark");
    await page.goto("/sinks");
  }
  await page.getByText("SIEM of the house").click();
  await page.getByRole("button", { name: "Delete" }).click();
  await dialog.getByTestId("confirm").click();
  await page.getByText("Nothing leaves the ledger yet").waitFor();
  return { id };
}
