// node run.mjs NAME <facts.json: runs journeys/NAME.mjs in a browser; prints what it measured.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const { chromium } = createRequire(new URL("../../ui/package.json", import.meta.url))(
  "playwright-core",
);
const ARGUMENTS = [
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--no-proxy-server",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const PATIENCE_MS = 60_000;
/** What a browser says of requests that are meant to fail. */
const EXPECTED = /Failed to load resource/;

const name = process.argv[2];
const facts = JSON.parse(readFileSync(0, "utf8"));
const complaints = [];
const browser = await chromium.launch({
  executablePath: facts.browser,
  args: ARGUMENTS,
});
let page;
try {
  const { default: journey } = await import(`./journeys/${name}.mjs`);
  const context = await newContext({});
  page = await context.newPage();
  const measured = await journey({ page, context, facts, newContext, signIn, browser });
  if (complaints.length > 0) throw new Error(`the browser complains: ${complaints.join("\n")}`);
  process.stdout.write(JSON.stringify(measured ?? {}));
} catch (error) {
  const place = path.join(facts.directory, `${name}.png`);
  await page
    ?.screenshot({ path: place })
    .then((image) => writeFileSync(place, image))
    .catch(() => undefined);
  const text = await page?.locator("body").innerText().catch(() => "");
  process.stderr.write(`${error.stack}\n--- ${page?.url()} (${place})\n${text?.slice(0, 2000)}\n`);
  process.exitCode = 1;
} finally {
  await browser.close();
}

/** A browser of somebody else: nothing shared with the first. */
async function newContext(options) {
  const context = await browser.newContext({
    baseURL: facts.url,
    viewport: { width: 1280, height: 800 },
    permissions: ["clipboard-read", "clipboard-write"],
    ...options,
  });
  context.setDefaultTimeout(PATIENCE_MS);
  context.on("weberror", (error) => complaints.push(String(error.error())));
  context.on("dialog", (dialog) => {
    complaints.push(`a dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  context.on("console", (message) => {
    if (message.type() === "error" && !EXPECTED.test(message.text())) {
      complaints.push(message.text());
    }
  });
  return context;
}

async function signIn(on, account = facts.account) {
  await on.goto("/sign-in");
  await on.getByLabel("E-mail address").fill(account.email);
  await on.getByLabel("Password").fill(account.password);
  await on.getByRole("button", { name: "Sign in" }).click();
  await on.waitForURL((url) => url.pathname !== "/sign-in");
}
