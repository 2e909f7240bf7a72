/** An event of a stream of server-sent events. */
export interface StreamEvent {
  id: string;
  type: string;
  data: string;
}

const LONGEST_EVENT = 64 * 1024;

/** Reads a stream of server-sent events (WHATWG HTML 9.2.6), piece by piece. */
export class EventReader {
  #rest = "";
  #data: string[] = [];
  #type = "";
  #id: string;

  constructor(lastEventId = "") {
    this.#id = lastEventId;
  }

  /** Where the stream can be gone on with; comments move it, too. */
  get lastEventId(): string {
    return this.#id;
  }

  /** The events that a piece completes. Throws RangeError where one does not end. */
  read(piece: string): StreamEvent[] {
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    if (this.#rest.length > LONGEST_EVENT || this.#data.length > 1000) {
      throw new RangeError("an event of the stream does not end");
    }
    const events: StreamEvent[] = [];
    for (const line of lines) {
      const event = this.#readLine(line);
      if (event !== undefined) events.push(event);
    }
    return events;
  }

  #readLine(line: string): StreamEvent | undefined {
    if (line === "") return this.#finish();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    return undefined;
  }

  #finish(): StreamEvent | undefined {
    const data = this.#data;
    const type = this.#type || "message";
    this.#data = [];
    this.#type = "";
    return data.length === 0 ? undefined : { id: this.#id, type, data: data.join("\n") };
  }
}
