import { keepPreviousData, useQuery } from "@tanstack/vue-query";
import { computed, type MaybeRefOrGetter, toValue } from "vue";

import { api, type Schemas, unwrap } from "./client";
import { may } from "@/session/session";

export type Agent = Schemas["AgentView"];
export type AgentDetail = Schemas["AgentDetail"];
export type Receipt = Schemas["ReceiptView"];
export type Fleet = Schemas["FleetView"];
export type Deployment = Schemas["DeploymentView"];
export type DeploymentDetail = Schemas["DeploymentDetail"];
export type Package = Schemas["PackageView"];
export type PackageDetail = Schemas["PackageDetail"];
export type Release = Schemas["ReleaseView"];
export type Publisher = Schemas["PublisherView"];
export type Approval = Schemas["ApprovalView"];
export type ApprovalState = Approval["state"];
export type Recovery = Schemas["RecoveryView"];
export type RecoveryState = Recovery["state"];
export type ManufacturerCa = Schemas["ManufacturerView"];
export type NewManufacturerCa = Schemas["ManufacturerCreate"];
export type FleetRevocation = Schemas["FleetRevocationView"];
export type Decisions = Schemas["DecisionsView"];
export type Trust = Schemas["TrustView"];
export type Overview = Schemas["OverviewView"];

const EVERYTHING = 500;
const NAMES_STALE_MS = 60_000;

export function useOverview() {
  return useQuery({
    queryKey: ["overview"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/overview", { signal })),
    enabled: computed(() => may("overview:read")),
    meta: { live: { kinds: ["overview", "deployment", "fleet"], later: ["agent", "ledger"] } },
  });
}

/** The fleets, for choosing one: the first 500. */
export function useFleets() {
  return useQuery({
    queryKey: ["fleets"],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/fleets", { signal, params: { query: { limit: EVERYTHING } } })),
    enabled: computed(() => may("fleets:read")),
    meta: { live: { kinds: ["fleet", "overview"], later: ["agent"] } },
  });
}

/** The users; only administrators may list them. */
export function useUsers() {
  return useQuery({
    queryKey: ["users"],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/users", { signal, params: { query: { limit: EVERYTHING } } })),
    enabled: computed(() => may("users:admin")),
    meta: { live: { kinds: [], later: ["ledger"] } },
  });
}

/** Whose an account's id is, and the name as far as one may know: the ledger and rows hold ids. */
export function useActor(id: () => string | undefined) {
  return useQuery({
    queryKey: ["actors", computed(id)],
    queryFn: async ({ signal }) => {
      const params = { query: { id: [id() ?? ""] } };
      const found = await unwrap(api.GET("/api/v1/actors", { signal, params }));
      return found[0] ?? null;
    },
    enabled: computed(() => id() !== undefined),
    staleTime: NAMES_STALE_MS,
  });
}

/** The newest trust bundle, who believes it, and what the next one will say. */
export function useTrust() {
  return useQuery({
    queryKey: ["trust"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/trust", { signal })),
    enabled: computed(() => may("trust:read")),
    meta: { live: { kinds: ["package", "trust"], later: ["overview", "agent"] } },
  });
}

/** Every publisher: they are few. */
export function usePublishers() {
  return useQuery({
    queryKey: ["publishers"],
    queryFn: ({ signal }) => unwrap(api.GET("/api/v1/publishers", { signal })),
    enabled: computed(() => may("publishers:read")),
    meta: { live: { kinds: ["package", "trust"], later: ["overview", "agent"] } },
  });
}

/** What publishers are called, by the id of their key. */
export function usePublisherNames() {
  const publishers = usePublishers();
  return computed(() => new Map(publishers.data.value?.items.map((one) => [one.kid, one.name])));
}

export function useReleases(limit: number = EVERYTHING) {
  return useQuery({
    queryKey: ["releases", limit],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/releases", { signal, params: { query: { limit } } })),
    enabled: computed(() => may("releases:read")),
    meta: { live: { kinds: ["release"] } },
  });
}

export function useDeployments(
  query: MaybeRefOrGetter<{
    state?: Schemas["DeploymentState"][];
    fleet?: string;
    limit?: number;
    cursor?: string;
  }>,
) {
  return useQuery({
    queryKey: ["deployments", computed(() => toValue(query))],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/deployments", { signal, params: { query: toValue(query) } })),
    enabled: computed(() => may("deployments:read")),
    placeholderData: keepPreviousData,
    meta: { live: { kinds: ["deployment"] } },
  });
}

const EXPIRY_SEEN_WITHIN_MS = 60_000;

/** What waits for a second person, or waited. */
export function useApprovals(
  query: MaybeRefOrGetter<{ state?: ApprovalState; limit?: number; cursor?: string }>,
) {
  return useQuery({
    queryKey: ["approvals", computed(() => toValue(query))],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/approvals", { signal, params: { query: toValue(query) } })),
    enabled: computed(() => may("approvals:read")),
    placeholderData: keepPreviousData,
    refetchInterval: EXPIRY_SEEN_WITHIN_MS,
    meta: { live: { kinds: ["approval"] } },
  });
}
