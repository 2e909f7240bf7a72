// From a list to an entry that this browser has verified itself; and whatever an answer has been
// changed to on its way here is refused, in words that say what is wrong.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash, generateKeyPairSync, sign } from "node:crypto";
import path from "node:path";
import { promisify } from "node:util";
import { open, settled } from "../opening.mjs";

const run = promisify(execFile);
const API = "**/api/v1/ledger";

export default async function journey({ page, facts, signIn }) {
  await signIn(page);
  await filter(page, facts);
  const entry = await verify(page);
  await refuse(page, entry);
  await tellForks(page);
  await exportAndVerify(page, facts);
}

const dialog = (page) => page.getByRole("dialog");
const verdict = (page, outcome) =>
  dialog(page).locator(`[data-testid=verdict][data-outcome=${outcome}]`);
const step = (page, name, outcome) =>
  dialog(page).locator(`[data-step=${name}][data-outcome=${outcome}]`);

/** Many self tests hide nothing; what is chosen stands in the address. */
async function filter(page, facts) {
  await open(page, `/ledger?fleet=${facts.fleet}`);
  const rows = page.getByRole("table", { name: "Ledger entries" }).getByRole("row");
  await page.getByText(`${facts.routine} routine entries`).waitFor();
  assert.equal(await page.getByText("Agent reports: self test").count(), 0);
  await page.getByRole("button", { name: "Show them" }).click();
  await page.getByText("Agent reports: self test").first().waitFor();
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByRole("button", { name: "Previous" }).click();
  await page.getByRole("button", { name: "Hide them" }).click();
  await page.getByRole("button", { name: "Types: Every type" }).press("Enter");
  await page.getByRole("searchbox", { name: "Find a type" }).fill("fleet");
  await page.getByRole("checkbox", { name: "Fleets" }).check();
  await page.keyboard.press("Escape");
  await page.waitForURL((url) => url.searchParams.get("type") === "fleet");
  await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 1);
  assert.equal(await rows.count(), 2);
  await page.getByLabel("Outcome").selectOption("denied");
  await page.getByText("No entry is like this").waitFor();
  await page.getByRole("button", { name: "Clear filters" }).first().click();
  await page.waitForURL((url) => url.search === "");
  await open(page, `/ledger?fleet=${facts.fleet}&type=fleet.created`);
}

/** At first sight the key is remembered, at the second it is the one that was. */
async function verify(page) {
  await page.getByRole("button", { name: "Fleet created", exact: true }).click();
  await verdict(page, "passed").or(verdict(page, "first")).waitFor();
  const place = page.url();
  await page.reload();
  await verdict(page, "passed").waitFor();
  for (const name of ["leaf", "path", "signature", "key", "consistency"]) {
    await step(page, name, "passed").waitFor();
  }
  await dialog(page).getByText("The platform names the key that this browser remembers since").waitFor();
  return place;
}

/** Each way of changing an answer, and what is then said. */
async function refuse(page, place) {
  const changed = async (part, change, name, words) => {
    const stop = await answer(page, part, async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: change(await response.text()) });
    });
    await page.goto(place);
    await verdict(page, "failed").getByText("NOT VERIFIED").waitFor();
    await step(page, name, "failed").getByText(words).waitFor();
    await stop();
  };
  const edit = (text, isRehashed) => {
    const answer = JSON.parse(text);
    for (const item of answer.items) {
      const bytes = Buffer.from(item.entry, "base64").toString().replace('"success"', '"failure"');
      item.entry = Buffer.from(bytes).toString("base64");
      if (isRehashed) item.leaf_hash = sha256(Buffer.from([0]), Buffer.from(bytes)).toString("hex");
    }
    return JSON.stringify(answer);
  };
  await changed("entries", (text) => edit(text, false), "leaf", "The bytes hash to");
  await changed("entries", (text) => edit(text, true), "path", "and not to the checkpoint's root");
  await changed("proof/inclusion", flipHash, "path", "and not to the checkpoint's root");
  await changed("checkpoint", flipSignature, "signature", "signature of the checkpoint is wrong");
  await changed("checkpoint", growSize, "signature", "signature of the checkpoint is wrong");

  const stranger = generateKeyPairSync("ed25519");
  const stop = await answer(page, "key", async (route) => {
    const [name] = (await (await route.fetch()).text()).split("+");
    await route.fulfill({ body: `${keyLine(name, stranger.publicKey)}\n`, contentType: "text/plain" });
  });
  const words = "THE KEY HAS CHANGED";
  await changed("checkpoint", (note) => signAgain(note, stranger), "key", words);
  await stop();

  // What this browser saw before is none that this ledger continues.
  await page.evaluate(() => {
    const name = "tg-ledger-memory/1";
    const memory = JSON.parse(localStorage.getItem(name));
    for (const seen of Object.values(memory.seen)) seen.root = "0".repeat(64);
    localStorage.setItem(name, JSON.stringify(memory));
  });
  await page.goto(place);
  await step(page, "consistency", "failed").getByText("THE LEDGER'S PAST HAS CHANGED").waitFor();
  await page.evaluate(() => localStorage.removeItem("tg-ledger-memory/1"));
  await page.goto(place);
  await verdict(page, "passed").or(verdict(page, "first")).waitFor();
  await page.keyboard.press("Escape");
}

/** Answer in place of the platform until told to stop; what is asked just then is nobody's. */
async function answer(page, part, respond) {
  const pattern = `${API}/${part}*`;
  let isOver = false;
  await page.route(pattern, (route) =>
    respond(route).catch((error) => {
      if (!isOver) throw error;
    }),
  );
  return async () => {
    isOver = true;
    await page.unroute(pattern);
  };
}

async function tellForks(page) {
  const fork = {
    epoch: 1,
    tree_size: 999_999,
    root_hash: "ab".repeat(32),
    agent_id: "01900000-0000-7000-8000-00000000000a",
    reason: "larger",
    seen_at: new Date().toISOString(),
  };
  await page.route(`${API}/forks`, (route) => route.fulfill({ json: [fork] }));
  await open(page, "/ledger");
  const alarm = page.getByRole("alert").filter({ hasText: "1 device remembers another ledger" });
  await alarm.getByText("of more entries than this ledger has").waitFor();
  await page.unroute(`${API}/forks`);
}

/** The file, and what verifies it, as they come to whoever asks for them here. */
async function exportAndVerify(page, facts) {
  await open(page, `/ledger?fleet=${facts.fleet}`);
  await page.getByRole("button", { name: "Export", exact: true }).click();
  await dialog(page).getByTestId("left-out").getByText("are left out").waitFor();
  const save = async (action) => {
    const [download] = await Promise.all([page.waitForEvent("download"), action()]);
    const file = path.join(facts.directory, download.suggestedFilename());
    await download.saveAs(file);
    return file;
  };
  const button = (name) => dialog(page).getByRole("button", { name, exact: true });
  const link = (name) => dialog(page).getByRole("link", { name, exact: true });
  const files = {
    export: await save(() => link("Export").click()),
    verifier: await save(() => link("verify.py").click()),
    key: await save(() => button("Key").click()),
    checkpoint: await save(() => button("Checkpoint").click()),
  };
  const given = [files.verifier, files.export, "--key", files.key, "--json"];
  const { stdout } = await run(facts.python, ["-I", ...given]);
  const said = JSON.parse(stdout);
  assert.ok(said.ok && said.entries >= 1 && said.entries < said.tree_size, stdout);
  const command = await dialog(page).getByText("python verify.py").innerText();
  assert.ok(command.includes(path.basename(files.export)), command);
  await settled(page, () => button("Close").click());
}

function sha256(...parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

function flipHash(text) {
  const proof = JSON.parse(text);
  proof.audit_path[0] = sha256(Buffer.from(proof.audit_path[0])).toString("hex");
  return JSON.stringify(proof);
}

function flipSignature(note) {
  const at = note.length - 20;
  return note.slice(0, at) + (note[at] === "A" ? "B" : "A") + note.slice(at + 1);
}

function growSize(note) {
  return note.replace(/\n(\d+)\n/, (_, size) => `\n${Number(size) + 1}\n`);
}

function rawOf(publicKey) {
  return Buffer.from(publicKey.export({ format: "jwk" }).x, "base64url");
}

function keyLine(name, publicKey) {
  const data = Buffer.concat([Buffer.from([1]), rawOf(publicKey)]);
  const hash = sha256(Buffer.from(`${name}\n`), data).subarray(0, 4);
  return `${name}+${hash.toString("hex")}+${data.toString("base64")}`;
}

function signAgain(note, { publicKey, privateKey }) {
  const text = note.slice(0, note.lastIndexOf("\n\n") + 1);
  const [name] = text.split("\n");
  const hash = Buffer.from(keyLine(name, publicKey).split("+")[1], "hex");
  const made = Buffer.concat([hash, sign(undefined, Buffer.from(text), privateKey)]);
  return `${text}\n— ${name} ${made.toString("base64")}\n`;
}
