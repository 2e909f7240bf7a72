import assert from "node:assert/strict";

const READ = ["Overview", "Fleets", "Agents", "Packages", "Deployments"];
const MENUS = {
  viewer: [...READ, "Trust"],
  mlops: [...READ, "Trust"],
  compliance: [...READ, "Approvals", "Trust", "Ledger"],
  admin: [
    ...["Overview", "Fleets", "Agents", "Enrollment", "Packages", "Deployments"],
    ...["Approvals", "Trust", "Ledger", "Users", "API keys"],
  ],
};
/** Which of the things that change something each role is offered. */
const OFFERS = [
  { page: "/fleets", button: /New fleet|Make the first fleet/, roles: ["admin"] },
  { page: "/fleets/FLEET", button: "New token", roles: ["admin"] },
  { page: "/packages", button: "Upload", roles: ["mlops", "admin"] },
  { page: "/packages", button: "New release", roles: ["mlops", "admin"] },
  { page: "/deployments", button: "New deployment", roles: ["mlops", "admin"] },
  { page: "/agents/AGENT", button: "Revoke", roles: ["compliance", "admin"] },
  { page: "/agents/AGENT", button: "Move", roles: ["admin"] },
  { page: "/fleets/FLEET", button: "Revoke fleet", roles: ["compliance", "admin"] },
  { page: "/fleets/FLEET", button: "Register CA", roles: ["admin"] },
];
const CLOSED = {
  "/ledger": ["compliance", "admin"],
  "/approvals": ["compliance", "admin"],
  "/enrollment": ["admin"],
  "/users": ["admin"],
  "/api-keys": ["admin"],
};

export default async function journey({ facts, newContext, signIn }) {
  for (const [role, menu] of Object.entries(MENUS)) {
    const context = await newContext({});
    const page = await context.newPage();
    const refused = [];
    page.on("response", (answer) => {
      if (answer.status() === 403) refused.push(answer.url());
    });
    await signIn(page, { email: `${role}@example.org`, password: facts.account.password });
    await page.getByRole("heading", { name: "Overview" }).waitFor();
    const shown = await page.getByRole("navigation", { name: "Main" }).getByRole("link").allInnerTexts();
    assert.deepEqual(shown.map((text) => text.replace(/\s+\d+\+?$/, "").trim()), menu, role);

    for (const offer of OFFERS) {
      await page.goto(offer.page.replace("FLEET", facts.fleet).replace("AGENT", facts.agentId));
      await page.getByRole("heading", { level: 1 }).waitFor();
      await page.waitForLoadState("networkidle", { timeout: 1500 }).catch(() => undefined);
      const button = page.getByRole("button", { name: offer.button, exact: true });
      const count = offer.roles.includes(role) ? await button.first().waitFor().then(() => 1) : await button.count();
      assert.equal(count > 0, offer.roles.includes(role), `${role}: ${offer.button} on ${offer.page}`);
    }
    for (const [path, roles] of Object.entries(CLOSED)) {
      await page.goto(path);
      if (roles.includes(role)) await page.getByRole("heading", { level: 1 }).waitFor();
      else await page.getByText("Your role does not include this page.").waitFor();
    }
    // Nobody is offered what is then refused, nor asks for it behind the scenes.
    assert.deepEqual(refused, [], role);
    await context.close();
  }
}
