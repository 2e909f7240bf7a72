import assert from "node:assert/strict";
import { open } from "../opening.mjs";

const READ = ["Overview", "Fleets", "Agents", "Packages", "Deployments"];
const MENUS = {
  viewer: [...READ, "Trust", "Keys", "Sinks"],
  mlops: [...READ, "Trust", "Keys", "Sinks"],
  compliance: [...READ, "Approvals", "Trust", "Keys", "Ledger", "Compliance", "Sinks"],
  admin: [
    ...["Overview", "Fleets", "Agents", "Enrollment", "Packages", "Deployments"],
    ...["Approvals", "Trust", "Keys", "Ledger", "Compliance", "Sinks", "Users", "API keys"],
  ],
};
/** Which of the things that change something each role is offered. */
const OFFERS = {
  "/fleets": [{ button: /New fleet|Make the first fleet/, roles: ["admin"] }],
  "/fleets/FLEET": [
    { button: "New token", roles: ["admin"] },
    { button: "Revoke fleet", roles: ["compliance", "admin"] },
    { button: "Register CA", roles: ["admin"] },
  ],
  "/packages": [
    { button: "Upload", roles: ["mlops", "admin"] },
    { button: "New release", roles: ["mlops", "admin"] },
  ],
  "/sinks": [{ button: "Add a sink", roles: ["admin"] }],
  "/keys": [{ button: "Add a fleet's key", roles: ["admin"] }],
  "/deployments": [{ link: "New deployment", roles: ["mlops", "admin"] }],
  "/agents/AGENT": [
    { button: "Revoke", roles: ["compliance", "admin"] },
    { button: "Move", roles: ["admin"] },
    { button: "Restart", roles: ["admin"] },
  ],
};
const CLOSED = {
  "/ledger": ["compliance", "admin"],
  "/compliance": ["compliance", "admin"],
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

    for (const [place, offers] of Object.entries(OFFERS)) {
      await open(page, place.replace("FLEET", facts.fleet).replace("AGENT", facts.agentId));
      for (const { button, link, roles } of offers) {
        // No waiting, not even for what is offered: so it is seen that the page was all there.
        const [kind, name] = button === undefined ? ["link", link] : ["button", button];
        const count = await page.getByRole(kind, { name, exact: true }).count();
        assert.equal(count > 0, roles.includes(role), `${role}: ${name} on ${place}`);
      }
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
