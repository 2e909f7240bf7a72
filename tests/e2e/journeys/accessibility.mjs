// What a program can tell of accessibility (WCAG 2.2 A and AA, by axe), on every page in both
// themes; and that whoever goes by keyboard sees where they are.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";

const STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
const NARROW = { width: 360, height: 740 };
const TABS = 25;

export default async function journey({ facts, newContext, signIn }) {
  const axe = readFileSync(path.join(facts.root, "ui/node_modules/axe-core/axe.min.js"), "utf8");
  const found = [];
  let looks = 0;
  for (const colorScheme of ["light", "dark"]) {
    // No fading: half-way there, colours have another contrast.
    const context = await newContext({ colorScheme, reducedMotion: "reduce" });
    const page = await context.newPage();
    const look = async (name) => {
      looks += 1;
      await page.evaluate(axe); // by the browser's own hand: the pages' policy allows no such script
      const violations = await page.evaluate(
        (values) => globalThis.axe.run(document, { runOnly: { type: "tag", values } }).then((all) =>
          all.violations.flatMap(({ id, nodes }) =>
            nodes.map(({ html, any }) => `${id}: ${html.slice(0, 160)} ${any[0]?.message ?? ""}`),
          ),
        ),
        STANDARDS,
      );
      found.push(...violations.map((text) => `${colorScheme}, ${name}: ${text}`));
    };

    await page.goto("/sign-in");
    await page.getByLabel("Password").waitFor();
    await look("sign-in");
    await signIn(page);
    for (const place of facts.pages) {
      await open(page, place);
      await look(place);
    }
    for (const [place, button] of facts.dialogs) {
      await open(page, place);
      await page.getByRole("button", { name: button, exact: true }).first().click();
      await page.getByRole("dialog").waitFor();
      await look(`${place}: ${button}`);
    }
    await open(page, "/agents");
    await lookWhereTheFocusIs(page);
    await page.setViewportSize(NARROW);
    for (const place of facts.pages) {
      await open(page, place);
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= NARROW.width, `${place} is ${width} pixels wide on ${NARROW.width}`);
    }
    await page.getByRole("button", { name: "Menu" }).click();
    await look("narrow: menu");
    await context.close();
  }
  assert.deepEqual(found, [], found.join("\n"));
  return { looks };
}

/** Open a page, and wait until what it reads is there. */
async function open(page, place) {
  await page.goto(place);
  await page.getByRole("heading", { level: 1 }).waitFor();
  await page.waitForFunction(() => document.querySelector("[aria-label^=Loading]") === null);
}

async function lookWhereTheFocusIs(page) {
  const unseen = [];
  for (let step = 0; step < TABS; step += 1) {
    await page.keyboard.press("Tab");
    const focus = await page.evaluate(() => {
      const { activeElement: at } = document;
      const { outlineStyle, outlineWidth } = getComputedStyle(at);
      const box = at.getBoundingClientRect();
      const isSeen = outlineStyle !== "none" && Number.parseFloat(outlineWidth) >= 2;
      return { isSeen: isSeen && box.width > 0 && box.height > 0, html: at.outerHTML.slice(0, 160) };
    });
    if (!focus.isSeen) unseen.push(focus.html);
  }
  assert.deepEqual(unseen, []);
}
