import { backoffMs } from "./backoff";
import { type Hint, parseHint } from "./hint";
import { EventReader, type StreamEvent } from "./sse";

/** `polling`: this platform has no stream, so that everything is read again every few seconds. */
export type StreamState = "connecting" | "live" | "reconnecting" | "polling";

export interface StreamSink {
  onState(state: StreamState): void;
  onHints(hints: Hint[], lastEventId: string): void;
  /** Some hints may have been missed: read everything again. */
  onGap(): void;
  /** The session has ended; resolves to whether there is a new one. */
  onUnauthenticated(): Promise<boolean>;
}

const PATH = "/api/v1/events";
const POLL_MS = 5000;
/** The platform says something at least every 15 s: silence beyond this is a dead connection. */
const SILENCE_MS = 40_000;

/** Follow the platform's changes until `stop`. */
export async function followStream(
  sink: StreamSink,
  lastEventId: string,
  stop: AbortSignal,
): Promise<void> {
  let lastId = lastEventId;
  let failures = 0;
  sink.onState("connecting");
  while (!stop.aborted) {
    const end = await readStream(sink, lastId, stop, (id) => {
      if (id !== "") lastId = id;
      failures = 0;
    });
    if (stop.aborted) return;
    if (end === "absent") {
      await poll(sink, stop);
      continue;
    }
    if (end === "unauthenticated") {
      sink.onState("reconnecting");
      if (!(await sink.onUnauthenticated())) return;
    }
    sink.onState("reconnecting");
    await pause(backoffMs(failures), stop);
    failures += 1;
  }
}

type End = "cut" | "absent" | "unauthenticated";

async function readStream(
  sink: StreamSink,
  lastEventId: string,
  stop: AbortSignal,
  onAlive: (lastId: string) => void,
): Promise<End> {
  const silence = new AbortController();
  const hangUp = (): void => silence.abort();
  let alarm = setTimeout(hangUp, SILENCE_MS);
  // Whatever else the browser says, nothing can come any more.
  addEventListener("offline", hangUp);
  try {
    const response = await fetch(PATH, {
      headers: {
        Accept: "text/event-stream",
        ...(lastEventId === "" ? {} : { "Last-Event-ID": lastEventId }),
      },
      cache: "no-store",
      signal: AbortSignal.any([stop, silence.signal]),
    });
    if (response.status === 401) return "unauthenticated";
    if (response.status === 404 || response.status === 405) return "absent";
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    if (!response.ok || response.body === null || !isStream) return "cut";
    sink.onState("live");
    // What happened before the first hint of this stream is not told without an id.
    if (lastEventId === "") sink.onGap();
    const reader = new EventReader(lastEventId);
    const pieces = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await pieces.read();
      if (done) return "cut";
      clearTimeout(alarm);
      alarm = setTimeout(hangUp, SILENCE_MS);
      const events = reader.read(value);
      onAlive(reader.lastEventId);
      deliver(sink, events, reader.lastEventId);
    }
  } catch {
    return "cut";
  } finally {
    clearTimeout(alarm);
    removeEventListener("offline", hangUp);
    hangUp();
  }
}

function deliver(sink: StreamSink, events: StreamEvent[], lastEventId: string): void {
  // Some hints are lost, or were never kept: whatever is shown is read again.
  if (events.some((event) => event.type === "reset")) sink.onGap();
  const hints = events.flatMap((event) => parseHint(event.type, event.data) ?? []);
  if (hints.length > 0) sink.onHints(hints, lastEventId);
}

/** One round without a stream; whether the platform still answers tells the next look for one. */
async function poll(sink: StreamSink, stop: AbortSignal): Promise<void> {
  sink.onState("polling");
  await pause(POLL_MS, stop);
  if (!stop.aborted) sink.onGap();
}

function pause(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (stop.aborted) {
      resolve();
      return;
    }
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      stop.removeEventListener("abort", done);
      removeEventListener("online", done);
      resolve();
    }
    stop.addEventListener("abort", done);
    addEventListener("online", done);
  });
}
