// What a program can tell of accessibility (WCAG 2.2 A and AA, by axe), on every page in both
// themes; and that whoever goes by keyboard sees where they are.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { open, settled } from "../opening.mjs";

const STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
const WIDE = { width: 1280, height: 800 };
const NARROW = { width: 360, height: 740 };
const TABS = 25;
/** What is asked of each theme: of the second only what a theme can change. */
const THEMES = {
  light: { type: "tag", values: STANDARDS },
  dark: { type: "rule", values: ["color-contrast"] },
};

export default async function journey({ facts, newContext, signIn }) {
  const axe = readFileSync(path.join(facts.root, "ui/node_modules/axe-core/axe.min.js"), "utf8");
  /** What is wrong, and where it was seen first. */
  const found = new Map();
  let looks = 0;
  // No fading: half-way there, colours have another contrast.
  const context = await newContext({ reducedMotion: "reduce" });
  // By the browser's own hand: the pages' policy allows no such script.
  await context.addInitScript(axe);
  const page = await context.newPage();
  // Each look begins with the theme in which the one before has ended.
  const themes = Object.entries(THEMES);
  const look = async (name) => {
    for (const [theme, runOnly] of themes) {
      await page.emulateMedia({ colorScheme: theme });
      looks += 1;
      let seen = await page.evaluate(violations, { theme, runOnly });
      if (seen.length > 0) {
        // What changed under the look is not wrong; what is, still is.
        const again = new Set(await page.evaluate(violations, { theme, runOnly }));
        seen = seen.filter((text) => again.has(text));
      }
      for (const text of seen) {
        if (!found.has(text)) found.set(text, `${theme}, ${name}`);
      }
    }
    themes.reverse();
  };

  if (facts.isAll) {
    await page.goto("/sign-in");
    await page.getByLabel("Password").waitFor();
    await look("sign-in");
  }
  await signIn(page);
  const places = new Set([...facts.pages, ...facts.dialogs.map(([place]) => place)]);
  for (const place of places) {
    await open(page, place);
    const isPage = facts.pages.includes(place);
    if (isPage) await look(place);
    for (const [, button] of facts.dialogs.filter(([at]) => at === place)) {
      const dialog = page.getByRole("dialog");
      await settled(page, async () => {
        await page.getByRole("button", { name: button, exact: true }).first().click();
        await dialog.waitFor();
      });
      await look(`${place}: ${button}`);
      await page.keyboard.press("Escape");
      await dialog.waitFor({ state: "detached" });
    }
    if (!isPage) continue;
    await page.setViewportSize(NARROW);
    await page
      .waitForFunction((width) => document.documentElement.scrollWidth <= width, NARROW.width)
      .catch(() => assert.fail(`${place} is wider than ${NARROW.width} pixels`));
    await page.setViewportSize(WIDE);
  }
  if (facts.isAll) {
    await open(page, "/agents");
    await page.setViewportSize(NARROW);
    await look("/agents, narrow");
    await page.getByRole("button", { name: "Menu" }).click();
    await page.getByRole("dialog").waitFor();
    await look("the menu");
    await page.keyboard.press("Escape");
    await page.setViewportSize(WIDE);
    for (const colorScheme of Object.keys(THEMES)) {
      await page.emulateMedia({ colorScheme });
      await lookWhereTheFocusIs(page);
    }
  }
  assert.deepEqual([...found], []);
  return { looks };
}

/** In the page, once it is drawn in this theme: each thing that is wrong, as a text. */
async function violations({ theme, runOnly }) {
  for (let frame = 0, there = 0; there < 2; frame += 1) {
    if (frame > 1000) throw new Error(`the page does not become ${theme}`);
    await new Promise((done) => requestAnimationFrame(done));
    if (document.documentElement.dataset.theme === theme) there += 1;
  }
  const all = await globalThis.axe.run(document, {
    runOnly,
    resultTypes: ["violations"],
    preload: false, // no style and no medium comes from elsewhere
  });
  return all.violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, any }) => `${id}: ${any[0]?.message ?? ""} ${html.slice(0, 160)}`),
  );
}

async function lookWhereTheFocusIs(page) {
  const unseen = [];
  for (let step = 0; step < TABS; step += 1) {
    await page.keyboard.press("Tab");
    const focus = await page.evaluate(() => {
      const { activeElement: at } = document;
      if (at === document.body) return { isSeen: true }; // past the last: in the browser's own
      const { outlineStyle, outlineWidth } = getComputedStyle(at);
      const box = at.getBoundingClientRect();
      const isSeen = outlineStyle !== "none" && Number.parseFloat(outlineWidth) >= 2;
      return { isSeen: isSeen && box.width > 0 && box.height > 0, html: at.outerHTML.slice(0, 160) };
    });
    if (!focus.isSeen) unseen.push(focus.html);
  }
  assert.deepEqual(unseen, []);
}
