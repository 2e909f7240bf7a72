/** One Idempotency-Key for one intent: sending the same again after a lost answer has its effect
 * once; whatever was changed is a new intent. */
export class Intent {
  #fingerprint = "";
  #key = "";

  keyFor(payload: unknown): string {
    const fingerprint = JSON.stringify(payload);
    if (fingerprint !== this.#fingerprint || this.#key === "") {
      this.#fingerprint = fingerprint;
      this.#key = crypto.randomUUID();
    }
    return this.#key;
  }

  /** The intent was carried out: the same payload is from now on another one. */
  done(): void {
    this.#key = "";
  }
}
