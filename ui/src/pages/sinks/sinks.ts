import type { Schemas } from "@/api/client";
import type { Tone } from "@/components/UiBadge.vue";

export type Sink = Schemas["SinkView"];
export type SinkConfig = Sink["config"];
export type SinkKind = SinkConfig["kind"];
export type SinkDeadLetter = Schemas["SinkDeadLetterView"];
export type SinkTest = Schemas["SinkTestView"];

export interface KindText {
  kind: SinkKind;
  name: string;
  text: string;
  /** What its secret is called; empty where it has none. */
  secret: string;
}

export const KINDS: readonly KindText[] = [
  {
    kind: "splunk",
    name: "Splunk",
    text: "HTTP Event Collector, with indexer acknowledgement if its token has that.",
    secret: "Token",
  },
  { kind: "datadog", name: "Datadog", text: "The log intake of a Datadog site.", secret: "API key" },
  {
    kind: "webhook",
    name: "Webhook",
    text: "Any HTTPS receiver; each message is signed (Standard Webhooks).",
    secret: "Signing secret",
  },
  {
    kind: "syslog",
    name: "Syslog over TLS",
    text: "RFC 5424 messages to rsyslog, syslog-ng and what speaks like them.",
    secret: "",
  },
  {
    kind: "file",
    name: "File",
    text: "JSON lines on the hub's host, for a log shipper to take.",
    secret: "",
  },
  {
    kind: "stdout",
    name: "Standard output",
    text: "JSON lines among what the hub's process prints.",
    secret: "",
  },
];

export function kindText(kind: SinkKind): KindText {
  const found = KINDS.find((one) => one.kind === kind);
  if (found === undefined) throw new Error(`no such kind of sink: ${kind}`);
  return found;
}

/** Where a sink sends to, in short. */
export function placeOf(config: SinkConfig): string {
  switch (config.kind) {
    case "splunk":
    case "datadog":
    case "webhook":
      return config.url.replace(/^https:\/\//, "");
    case "syslog":
      return `${config.host}:${config.port}`;
    case "file":
      return `sinks/${config.file_name}`;
    case "stdout":
      return "the hub's process";
  }
}

const STANDINGS: Record<Sink["state"], { label: string; tone: Tone }> = {
  active: { label: "Sending", tone: "ok" },
  failing: { label: "Failing", tone: "warn" },
  paused: { label: "Paused", tone: "quiet" },
  stopped: { label: "Stopped", tone: "bad" },
};

export function standingOf(sink: Pick<Sink, "state">): { label: string; tone: Tone } {
  return STANDINGS[sink.state];
}

/** What needs somebody's eye: it does not send though it should. */
export function isInTrouble(sink: Pick<Sink, "state">): boolean {
  return sink.state === "failing" || sink.state === "stopped";
}

const REMEDIES: Record<string, string> = {
  "address-refused":
    "Its name stands for an address inside the network. If that is meant, allow its network in TG_SINK_NETWORKS.",
  "connection-failed": "Is it running, and does a firewall let the hub through?",
  "dead-letters-full": "Replay or discard the dead letters, then resume it.",
  "everything-refused":
    "Every entry is refused one by one: look at the answer, and at how the sink is configured.",
  "hec-1": "Enable the token in Splunk, then resume it.",
  "hec-4": "Give it a token that Splunk knows, then resume it.",
  "hec-10": "The token asks for indexer acknowledgement: switch it on here, then resume it.",
  "hec-14": "The token has no indexer acknowledgement: switch it off here, then resume it.",
  "http-401": "Give it a secret that is taken, then resume it.",
  "http-403": "Give it a secret that is taken, then resume it.",
  "http-404": "Correct its URL, then resume it.",
  "http-410": "The receiver wants nothing any more. Delete the sink, or correct its URL.",
  timeout: "It takes too long to answer. It may be overloaded.",
  "tls-failed": "Is its certificate valid, for this name, and of a CA that the sink believes?",
  "write-failed": "Look at the disk and the folder of the hub's host.",
};

/** What helps against trouble. */
export function remedyOf(code: string): string {
  return REMEDIES[code] ?? "Look at its answer, and at the destination.";
}

/** How the form begins; what is given goes on where a sink is changed. */
export function blankConfig(kind: SinkKind): SinkConfig {
  switch (kind) {
    case "splunk":
      return {
        kind,
        url: "",
        index: null,
        source: "tensorguard",
        sourcetype: "tensorguard:ledger:ocsf",
        acknowledge: false,
        ca_pem: null,
        timeout_s: 30,
      };
    case "datadog":
      return {
        kind,
        url: "https://http-intake.logs.datadoghq.com",
        service: "tensorguard",
        tags: [],
        ca_pem: null,
        timeout_s: 30,
      };
    case "webhook":
      return { kind, url: "", batch_items: 500, ca_pem: null, timeout_s: 30 };
    case "syslog":
      return {
        kind,
        host: "",
        port: 6514,
        confirm: true,
        message_bytes: 65_536,
        enterprise: 32_473,
        ca_pem: null,
        timeout_s: 30,
      };
    case "file":
      return { kind, file_name: "ledger.jsonl" };
    case "stdout":
      return { kind };
  }
}

/** What is wrong with a configuration, by field; the api decides, this spares a question. */
export function errorsOf(config: SinkConfig): Map<string, string> {
  const errors = new Map<string, string>();
  if ("url" in config && !/^https:\/\/[^\s/@]+(\/\S*)?$/.test(config.url)) {
    errors.set("url", "It begins with https://, and holds no user or password.");
  }
  if (config.kind === "syslog" && config.host.trim() === "") {
    errors.set("host", "The name or address of the receiver.");
  }
  if (config.kind === "file" && !/^[a-z0-9][a-z0-9_-]{0,62}\.jsonl$/.test(config.file_name)) {
    errors.set("file_name", "Small letters, digits, - and _, and .jsonl at the end.");
  }
  return errors;
}

/** A fresh secret of a webhook, made in this browser: it is shown nowhere else. */
export function newWebhookSecret(): string {
  const key = crypto.getRandomValues(new Uint8Array(32));
  return `whsec_${btoa(String.fromCharCode(...key))}`;
}
