import { createRouter, createWebHistory, type Router, type RouteRecordRaw } from "vue-router";

import { loadSession, may, type Permission, session } from "./session/session";
import { tell } from "./text/toasts";

const RELOADED = "tg-reloaded";

declare module "vue-router" {
  interface RouteMeta {
    /** Shown without the shell, to whoever is not signed in. */
    isPublic?: boolean;
    permission?: Permission;
  }
}

const routes: RouteRecordRaw[] = [
  {
    path: "/sign-in",
    name: "sign-in",
    component: () => import("./pages/sign-in/SignInPage.vue"),
    meta: { isPublic: true },
  },
  {
    path: "/",
    name: "overview",
    component: () => import("./pages/overview/OverviewPage.vue"),
    meta: { permission: "overview:read" },
  },
  {
    path: "/fleets",
    name: "fleets",
    component: () => import("./pages/fleets/FleetsPage.vue"),
    meta: { permission: "fleets:read" },
  },
  {
    path: "/fleets/:slug",
    name: "fleet",
    component: () => import("./pages/fleets/FleetPage.vue"),
    props: true,
    meta: { permission: "fleets:read" },
  },
  {
    path: "/agents",
    name: "agents",
    component: () => import("./pages/agents/AgentsPage.vue"),
    meta: { permission: "agents:read" },
  },
  {
    path: "/agents/:id",
    name: "agent",
    component: () => import("./pages/agent/AgentPage.vue"),
    props: true,
    meta: { permission: "agents:read" },
  },
  {
    path: "/enrollment",
    name: "enrollment",
    component: () => import("./pages/enrollment/EnrollmentPage.vue"),
    meta: { permission: "agents:admit" },
  },
  {
    path: "/packages",
    name: "packages",
    component: () => import("./pages/packages/PackagesPage.vue"),
    meta: { permission: "packages:read" },
  },
  {
    path: "/packages/:digest",
    name: "package",
    component: () => import("./pages/packages/PackagePage.vue"),
    props: true,
    meta: { permission: "packages:read" },
  },
  {
    path: "/releases/:id",
    name: "release",
    component: () => import("./pages/releases/ReleasePage.vue"),
    props: true,
    meta: { permission: "releases:read" },
  },
  {
    path: "/publishers/:kid",
    name: "publisher",
    component: () => import("./pages/publishers/PublisherPage.vue"),
    props: true,
    meta: { permission: "publishers:read" },
  },
  {
    path: "/deployments",
    name: "deployments",
    component: () => import("./pages/deployments/DeploymentsPage.vue"),
    meta: { permission: "deployments:read" },
  },
  {
    path: "/deployments/new",
    name: "new-deployment",
    component: () => import("./pages/deployments/NewDeploymentPage.vue"),
    meta: { permission: "deployments:write" },
  },
  {
    path: "/deployments/:id",
    name: "deployment",
    component: () => import("./pages/deployments/DeploymentPage.vue"),
    props: true,
    meta: { permission: "deployments:read" },
  },
  {
    path: "/ledger",
    name: "ledger",
    component: () => import("./pages/ledger/LedgerPage.vue"),
    meta: { permission: "ledger:read" },
  },
  {
    path: "/compliance",
    name: "compliance",
    component: () => import("./pages/compliance/CompliancePage.vue"),
    meta: { permission: "ledger:read" },
  },
  {
    path: "/approvals",
    name: "approvals",
    component: () => import("./pages/approvals/ApprovalsPage.vue"),
    meta: { permission: "approvals:read" },
  },
  {
    path: "/trust",
    name: "trust",
    component: () => import("./pages/trust/TrustPage.vue"),
    meta: { permission: "trust:read" },
  },
  {
    path: "/keys",
    name: "keys",
    component: () => import("./pages/keys/KeysPage.vue"),
    meta: { permission: "keys:read" },
  },
  {
    path: "/keys/:id",
    name: "key",
    component: () => import("./pages/keys/KekPage.vue"),
    props: true,
    meta: { permission: "keys:read" },
  },
  {
    path: "/sinks",
    name: "sinks",
    component: () => import("./pages/sinks/SinksPage.vue"),
    meta: { permission: "sinks:read" },
  },
  {
    path: "/sinks/:id",
    name: "sink",
    component: () => import("./pages/sinks/SinkPage.vue"),
    props: true,
    meta: { permission: "sinks:read" },
  },
  {
    path: "/users",
    name: "users",
    component: () => import("./pages/access/UsersPage.vue"),
    meta: { permission: "users:admin" },
  },
  {
    path: "/api-keys",
    name: "api-keys",
    component: () => import("./pages/access/ApiKeysPage.vue"),
    meta: { permission: "api-keys:admin" },
  },
  {
    path: "/:path(.*)*",
    name: "nowhere",
    component: () => import("./pages/NowherePage.vue"),
  },
];

export function createConsoleRouter(): Router {
  const router = createRouter({
    history: createWebHistory(),
    routes,
    scrollBehavior: (to, from, saved) => saved ?? (to.path === from.path ? undefined : { top: 0 }),
  });
  let isLoaded = false;
  router.beforeEach(async (to) => {
    if (!isLoaded) {
      // An api that is down is no sign-out: the sign-in page says that it is down.
      await loadSession().then(
        () => (isLoaded = true),
        () => undefined,
      );
    }
    if (to.meta.isPublic) return session.value === null ? true : { path: "/" };
    if (session.value === null) {
      return { name: "sign-in", query: to.fullPath === "/" ? {} : { next: to.fullPath } };
    }
    return true;
  });
  router.onError((error, to) => {
    if (error instanceof TypeError) void reloadFor(to.fullPath);
  });
  router.afterEach(() => sessionStorage.removeItem(RELOADED));
  return router;
}

/** A page's code could not be loaded. If that is because a new version was installed under this
 * page, whose parts have other names now, start over; else stay, with everything that is shown. */
async function reloadFor(path: string): Promise<void> {
  const isThere = await fetch("/healthz", { cache: "no-store" }).then(
    (answer) => answer.ok,
    () => false,
  );
  if (isThere && !sessionStorage.getItem(RELOADED)) {
    sessionStorage.setItem(RELOADED, path);
    location.assign(path);
  } else {
    tell("That page could not be loaded: the platform does not answer.", "bad");
  }
}

/** Whether the signed-in role may see a page at all. */
export function mayOpen(permission: Permission | undefined): boolean {
  return permission === undefined || may(permission);
}
